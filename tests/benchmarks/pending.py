"""Many pending messages: what each costs in memory and on disk, and how long a restart with all of them takes.

One worker takes in a tenth, then the rest; its resident memory is looked at after each, when it has settled.  Then it
is started again with its data directory, and with an empty one.  The most that each of them took is shown, too: that is
what its machine must have.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

from tests.benchmarks.figure import Bench, Result, Row, at_most, table
from tests.benchmarks.intake import SMALL
from tests.benchmarks.meter import follow
from tests.benchmarks.processes import PARTITIONS, WORKER, Deployment, Running, deployed, directory, running
from tests.benchmarks.records import POOL_LARGE, fill, small_events

MEMORY_BYTES_MAX = 100.0
PART = 10
"""The first look is at one of so many parts."""

SETTLED_SECONDS = 3.0
SETTLED_PART = 0.01
SETTLE_SECONDS_MAX = 30.0


async def measure(bench: Bench) -> Result:
    """Memory and disk per pending message, and restarts with all of them."""
    many = bench.sizes.pending
    few = max(1, many // PART)
    async with deployed(bench.bootstrap, initial_backoff_seconds=86_400, max_backoff_seconds=86_400) as deployment:
        with directory() as data:
            with running(WORKER, deployment.environment, data) as worker:
                await _load(deployment, worker, few, few, seed=6)
                memory_few = await settled(worker)
                seconds = await _load(deployment, worker, many - few, many, seed=7)
                memory_many = await settled(worker)
                peak = peak_bytes(worker.process.pid)
            on_disk = sum(file.stat().st_size for file in data.rglob("*") if file.is_file())
            kept, _ = await _ready(deployment, data)
        with directory() as data:
            alone, peak_alone = await _ready(deployment, data)
        in_topics = topic_bytes(bench.broker_data, f"{deployment.app}-") if bench.broker_data else {}
    each = per_message(memory_few, memory_many, many - few)
    note = f"{memory_few / 2**20:,.0f} MiB with {few:,}, {memory_many / 2**20:,.0f} MiB with {many:,}"
    rows = [
        at_most(
            f"resident memory per pending message, {few:,} to {many:,}", each, MEMORY_BYTES_MAX, unit=" B", note=note
        ),
        Row(f"ready from the changelogs alone, {many:,} pending", f"{alone:.1f} s", "aim 20 s"),
        Row(f"ready with the data directory kept, {many:,} pending", f"{kept:.1f} s", "aim 3 s"),
    ]
    header = ["constant", "measured"]
    lines = [
        ["loading the rest, writing the events included", f"{seconds:.0f} s ({(many - few) / seconds:,.0f}/s)"],
        ["restore from the changelogs, start included", f"{many / alone:,.0f} messages/s"],
        ["resident memory at most, taking all in", f"{peak / 2**20:,.0f} MiB"],
        ["resident memory at most, restoring all from the changelogs", f"{peak_alone / 2**20:,.0f} MiB"],
        ["RocksDB, per message", f"{on_disk / many:,.0f} B"],
        *(
            [f"topic `{topic}`, per message", f"{size / many:,.0f} B"]
            for topic, size in in_topics.items()
            if size > many
        ),
    ]
    return Result(rows, f"{many:,} pending {SMALL}, {PARTITIONS} partitions:\n\n{table(header, lines)}")


def per_message(before: int, after: int, messages: int) -> float:
    """Bytes that each of some more messages takes; less than nothing is nothing."""
    return max(0.0, (after - before) / messages)


async def _load(deployment: Deployment, worker: Running, more: int, total: int, seed: int) -> float:
    """Report so many more failures and wait until all are durably scheduled; returns the seconds that took."""
    began = time.monotonic()
    made = small_events(more, seed, deployment.source, POOL_LARGE)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fill(deployment.bootstrap, deployment.failures, made))
        await follow(deployment.bootstrap, deployment.app, deployment.failures, total, [worker.process])
    return time.monotonic() - began


async def _ready(deployment: Deployment, data: Path) -> tuple[float, int]:
    """Seconds from the start of a worker until it works on all partitions, and the most bytes that it took."""
    with running(WORKER, deployment.environment, data) as worker:
        return await worker.until_ready(deployment.partitions), peak_bytes(worker.process.pid)


async def settled(worker: Running) -> int:
    """Resident bytes, once they have hardly changed for a while."""
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    before = resident_bytes(worker.process.pid)
    while True:
        await asyncio.sleep(SETTLED_SECONDS)
        now = resident_bytes(worker.process.pid)
        if abs(now - before) <= SETTLED_PART * now or time.monotonic() > deadline:
            return now
        before = now


def resident_bytes(pid: int) -> int:
    """What of a process is in memory now."""
    return _bytes_of(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The most of a process that has been in memory at a time."""
    return _bytes_of(pid, "VmHWM")


def _bytes_of(pid: int, line: str) -> int:
    found = re.search(rf"^{line}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"the system does not say how much memory process {pid} has")
    return int(found.group(1)) * 1024


def topic_bytes(broker_data: Path, prefix: str) -> dict[str, int]:
    """Bytes of the log segments of every topic that begins so, by what follows the prefix."""
    sizes: dict[str, int] = {}
    for segment in sorted(broker_data.rglob(f"{prefix}*/*.log")):
        topic = segment.parent.name.removeprefix(prefix).rpartition("-")[0]
        sizes[topic] = sizes.get(topic, 0) + segment.stat().st_size
    return sizes
