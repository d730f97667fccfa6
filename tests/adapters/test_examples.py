"""The examples of the adapters on a real broker: what fails is reported before it is committed, and nothing else is."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from dlq_stream.core.headers import FailureEvent, parse_failure
from dlq_stream.core.ids import message_id
from dlq_stream.core.model import Origin
from tests.adapters.example import Example, eventually, prepared
from tests.kafka_clients import create_topics, delete_topic, read_topic
from tests.kafka_fixture import LocalKafka

ADAPTERS = ("confluent", "faststream", "faust")
OURS, OTHERS = "a" * 32, "b" * 32


async def committed_at_least(example: Example, offset: int) -> None:
    await eventually(example.committed, lambda found: found >= offset, example)


async def logged(example: Example) -> str:
    return example.logged()


async def events_of(bootstrap: str, topic: str) -> dict[tuple[int, int | None], FailureEvent]:
    """The failure events by attempt and original offset, which retries of the tests do not name."""
    found = [parse_failure(record) for record in await read_topic(bootstrap, topic)]
    return {(event.kind.attempt, event.origin.offset): event for event in found}


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_what_fails_is_reported_and_then_committed(kafka: LocalKafka, tmp_path: Path, adapter: str) -> None:
    """Failures of handling and of parsing; outcomes of our retries; none of others' retries.

    While a report is not acknowledged nothing is committed, and the process can be ended all the same.
    """
    example = await prepared(adapter, kafka.bootstrap)
    failures, commands = f"{example.app_id}-failures", f"{example.app_id}-commands"
    await example.write(b'{"n": 0}', b'{"n": 1}')
    await example.write(b'{"n": 2}', headers=example.retry(OURS, 2))
    await example.write(b'{"n": 3}', headers=example.retry(OTHERS, 1, group="others"))
    await example.write(b'{"n": 1}', headers=example.retry("c" * 32, 3))
    await example.write(b"no json")
    example.start(tmp_path)
    try:
        await committed_at_least(example, 6)
        assert example.said() == [0, 1, 2, 1]
        events = await events_of(kafka.bootstrap, failures)
        assert events.keys() == {(0, 1), (0, 5), (3, None)}
        first = events[0, 1]
        origin = Origin(example.topic, 0, 1, first.origin.timestamp)
        assert (first.origin, first.id) == (origin, message_id(example.group, origin))
        assert (first.key, first.value, first.headers) == (b"k", b'{"n": 1}', ())
        assert (first.kind.error_types[0], first.error_message) == ("TimeoutError", "no answer from the kiln")
        assert (first.kind.group, first.kind.outcomes_reported) == (example.group, True)
        assert events[3, None].id.hex() == "c" * 32
        assert events[3, None].headers == example.retry("", 0)[:2]
        assert events[0, 5].value == b"no json"
        (outcome,) = await read_topic(kafka.bootstrap, commands)
        assert json.loads(outcome.value or b"") == {"type": "succeeded", "message_id": OURS, "attempt": 2}

        await lose_the_failures_topic(example)
        assert await example.committed() <= 6
        await create_topics(kafka.bootstrap, failures, partitions=2)
        await committed_at_least(example, 8)
        assert (await events_of(kafka.bootstrap, failures)).keys() == {(0, 6)}
        assert example.said() == [0, 1, 2, 1, 1, 0]

        if adapter != "faststream":  # which gives a handler 15 s to end
            await lose_the_failures_topic(example)
            await asyncio.wait_for(example.end(), 10)
            assert await example.committed() <= 8
    finally:
        await example.end()


async def lose_the_failures_topic(example: Example) -> None:
    """Have a record fail whose report cannot be acknowledged, and one behind it succeed, and give it time."""
    complaint = "not acknowledged, so nothing is committed"
    complaints = example.logged().count(complaint)
    await delete_topic(example.bootstrap, f"{example.app_id}-failures")
    await example.write(b'{"n": 1}', b'{"n": 0}')
    await eventually(
        lambda: logged(example),
        lambda text: text.count("not acknowledged, so nothing is committed") > complaints,
        example,
    )
    await asyncio.sleep(3 if example.adapter == "faust" else 0.5)  # long enough to commit, if it wanted to
