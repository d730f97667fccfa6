"""Where the demo's Kafka comes from, and what is left of the demo on it afterwards: nothing.

Brokers that were given are used; else the repository's launcher (``deploy/kafka``) is asked.  A broker of the launcher
that runs already is somebody's, so it is used like one that was given; else one of our own starts on a free port, with
its data in the run's directory, and goes away with it.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka.errors import GroupIdNotFound, KafkaError, NoError, NonEmptyGroup, for_code
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.protocol.group import LeaveGroupRequest

import dlq_stream
from dlq_stream.core.connection import Connection
from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError, DLQError
from dlq_stream.demo.plan import PARTITIONS, Plan
from dlq_stream.demo.supervisor import run_to_end
from dlq_stream.kafka import admin_client, wait_for_brokers
from dlq_stream.topics.cluster import Cluster
from dlq_stream.topics.plan import PlannedTopic

CLEANUP_SECONDS_MAX = 20.0
"""Deleting topics and groups takes at most this long; what is left is named."""

_LISTENS = re.compile(r"listens on (\S+:\d+)")
_STOPPED = 3


@dataclass(frozen=True, slots=True)
class Broker:
    """Addresses, and whether the cluster outlives the demo (then what the demo made there has to go)."""

    addresses: str
    is_ours: bool
    origin: str


def launcher() -> Path:
    """The script that runs Kafka, found beside the package.  Raises ConfigurationError outside a checkout."""
    script = Path(dlq_stream.__file__).resolve().parents[1] / "deploy" / "kafka" / "kafka"
    if not script.is_file():
        raise ConfigurationError(
            f"no brokers are set and {script} does not exist: the demo starts Kafka only from a checkout of the "
            "repository (pip install -e .); set --brokers / DLQ_BROKERS to use a running Kafka"
        )
    return script


@asynccontextmanager
async def broker(given: Connection | None, directory: Path, wait_seconds: float) -> AsyncIterator[Broker]:
    """A Kafka for one run.  Raises BrokersUnavailable where the given one does not answer in time."""
    if given:
        await wait_for_brokers(given, wait_seconds)
        yield Broker(str(given), is_ours=False, origin="given")
        return
    script = launcher()
    code, said = await _launch(script, "status")
    if code == 0 and (found := _LISTENS.search(said)):
        yield Broker(found[1], is_ours=False, origin="was running already")
        return
    if code not in (0, _STOPPED):
        raise DLQError(f"the launcher's broker is not well: {said}")
    data = ("--data-dir", str(directory / "kafka"))
    try:
        code, said = await _launch(script, "start", "--port", "0", *data)
        if code == 2:
            raise ConfigurationError(said)
        if code != 0 or not (found := _LISTENS.search(said)):
            raise BrokersUnavailable(f"Kafka did not start: {said}")
        yield Broker(found[1], is_ours=True, origin="started for this run")
    finally:
        await _launch(script, "wipe", *data)


async def _launch(script: Path, *arguments: str) -> tuple[int, str]:
    return await run_to_end(sys.executable, str(script), *arguments)


async def create_topics(plan: Plan) -> None:
    """The topics of the business; the brokers stamp them, so that all instants compared are the brokers'."""
    tuning = {"message.timestamp.type": "LogAppendTime"}
    async with admin_client(plan.connection) as admin:
        await Cluster(admin).create(
            [PlannedTopic(name, PARTITIONS, -1, (), tuning) for name in (plan.source, plan.results)]
        )


async def wait_for_members(plan: Plan, members: int, seconds_max: float) -> bool:
    """Wait until so many workers share the app's partitions; False where that takes too long."""
    deadline = time.monotonic() + seconds_max
    async with admin_client(plan.connection) as admin:
        while time.monotonic() < deadline:
            with suppress(KafkaError):
                state, found = await _members(admin, plan.app_id)
                if state == "Stable" and len(found) >= members:
                    return True
            await asyncio.sleep(0.25)
    return False


async def delete_traces(plan: Plan) -> list[str]:
    """Delete every topic and group of this run; returns what could not be deleted, with the reason."""
    deadline = time.monotonic() + CLEANUP_SECONDS_MAX
    left: list[str] = []
    prefix = f"{plan.name}-"
    async with admin_client(plan.connection) as admin:
        for group in sorted(name for name, *_ in await admin.list_consumer_groups() if name.startswith(prefix)):
            left += await _delete_group(admin, group, deadline)
        topics = sorted(name for name in await admin.list_topics() if name.startswith(prefix))
        if topics:
            answer = await admin.delete_topics(topics)
            left += [f"topic {name}: {for_code(code).__name__}" for name, code, *_ in answer.topic_error_codes if code]
    return left


async def _delete_group(admin: Any, group: str, deadline: float) -> list[str]:
    """Delete a group.  Static members do not leave when they end (that is their point), so they are made to."""
    while True:
        try:
            node = await admin.find_coordinator(group)
            for member in (await _members(admin, group))[1]:
                await admin._send_request_to_node(node, LeaveGroupRequest(group, member))
            answer = await admin._send_request_to_node(node, DeleteGroupsRequest([group]))
            error = for_code(answer.results[0][1])
        except KafkaError as problem:
            error = type(problem)
        if error in (NoError, GroupIdNotFound):
            return []
        if error is not NonEmptyGroup or time.monotonic() > deadline:
            return [f"group {group}: {error.__name__}"]
        await asyncio.sleep(0.5)


async def _members(admin: Any, group: str) -> tuple[str, list[str]]:
    """A group's state and the ids of its members."""
    (answer,) = await admin.describe_consumer_groups([group])
    _, _, state, _, _, members, *_ = answer.groups[0]
    return state, [member_id for member_id, *_ in members]
