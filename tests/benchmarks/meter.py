"""How fast a consumer group gets on, seen from the brokers: its committed offsets, looked at while it works.

Offsets that a transaction carries become visible with its commit, so what is counted is what is durable.  The first
look that shows progress and the first that shows the end are compared; start-up is before the first.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import CoordinatorNotAvailableError

from tests.kafka_clients import admin

LOOK_SECONDS = 0.05
STALL_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: when, how many records were committed, the processor seconds of the processes so far (or None)."""

    at_seconds: float
    records: int
    cpu_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Speed:
    """What a process achieved at steady state."""

    per_second: float
    cpu_us_per_record: float | None


def speed(samples: Sequence[Sample], total: int) -> Speed:
    """From the first sample with progress to the first with all of it; raises ValueError where that is nothing."""
    began = next((each for each in samples if each.records > 0), None)
    ended = next((each for each in samples if each.records >= total), None)
    if began is None or ended is None or ended.records <= began.records:
        raise ValueError(f"no progress to measure in {len(samples)} looks: from {began} to {ended}")
    records = ended.records - began.records
    cpu = None
    if began.cpu_seconds is not None and ended.cpu_seconds is not None:
        cpu = (ended.cpu_seconds - began.cpu_seconds) / records * 1e6
    return Speed(records / (ended.at_seconds - began.at_seconds), cpu)


async def follow(
    bootstrap: str, group: str, topic: str, total: int, processes: Sequence[subprocess.Popen[bytes]]
) -> list[Sample]:
    """Look until the group has committed ``total`` records of a topic that began at offset 0 and has no gaps."""
    samples: list[Sample] = []
    progress = time.monotonic()
    async with admin(bootstrap) as client:
        while True:
            records = await _committed(client, group, topic)
            at = time.monotonic()
            if not samples or records > samples[-1].records:
                progress = at
            samples.append(Sample(at, records, _together(processes)))
            if records >= total:
                return samples
            if ended := [process.returncode for process in processes if process.poll() is not None]:
                raise RuntimeError(f"{group} ended with exit {ended} after {records} records")
            if at - progress > STALL_SECONDS_MAX:
                raise TimeoutError(f"{group} stands at {records} of {total} records")
            await asyncio.sleep(LOOK_SECONDS)


async def _committed(client: AIOKafkaAdminClient, group: str, topic: str) -> int:
    try:
        offsets = await client.list_consumer_group_offsets(group)
    except CoordinatorNotAvailableError:  # a new broker makes its topic of offsets on the first question
        return 0
    return sum(max(0, each.offset) for place, each in offsets.items() if place.topic == topic)


def _together(processes: Sequence[subprocess.Popen[bytes]]) -> float | None:
    each = [cpu_seconds(process.pid) for process in processes]
    return None if None in each else sum(filter(None, each))


def cpu_seconds(pid: int) -> float | None:
    """Processor seconds of a process so far; None where the system does not say (or it has ended)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
