"""The commands as people run them: processes, on a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from dlq_stream.tables.stats import Stats, codec, stats_key
from tests.kafka_clients import Outgoing, create_topics, list_topics, produce
from tests.kafka_fixture import LocalKafka, unique_name

COMMAND = [sys.executable, "-m", "dlq_stream.cli"]


async def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One run of the command, with nothing but these variables of ours in its environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DLQ_")} | environment
    return await asyncio.to_thread(
        subprocess.run, [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, env=env
    )


@pytest.fixture
def env(kafka: LocalKafka) -> dict[str, str]:
    return {"DLQ_BROKERS": kafka.bootstrap, "DLQ_APP_ID": unique_name("app"), "DLQ_PARTITIONS": "2"}


async def test_init_creates_then_verifies(kafka: LocalKafka, env: Mapping[str, str]) -> None:
    """The first run creates and marks, the second verifies; both warn of the single copy on standard error."""
    first = await run("init", **env)
    assert (first.returncode, first.stderr.count("Warning")) == (0, 1)
    lines = first.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["created"] * 7 + ["marked"]
    app = env["DLQ_APP_ID"]
    assert {name for name in await list_topics(kafka.bootstrap) if name.startswith(app)} == {
        line.split()[1] for line in lines[:7]
    }
    second = await run("init", **env)
    assert second.returncode == 0
    assert [line.split()[0] for line in second.stdout.splitlines()] == ["verified"] * 7


async def test_init_tells_about_sources(kafka: LocalKafka, env: Mapping[str, str]) -> None:
    """Partitions, groups, retry topics; a source that does not exist is code 2 and named."""
    source = unique_name("source")
    await create_topics(kafka.bootstrap, source, partitions=3)
    done = await run("init", "--source", source, "--emit-to", "retry", **env)
    assert done.returncode == 0
    assert f"source    {source}: 3 partitions; consumer groups: none" in done.stdout
    assert f"retries go to {source}-retry (created)" in done.stdout
    failed = await run("init", "--source", source, unique_name("missing"), **env)
    assert failed.returncode == 2
    assert "does not exist" in failed.stderr


async def test_a_mismatch_is_code_2_with_topic_setting_value_and_fix(env: Mapping[str, str]) -> None:
    """From init as from the worker, which does not even join."""
    await run("init", **env)
    wrong = dict(env) | {"DLQ_PARTITIONS": "3"}
    for command in ("init", "worker"):
        done = await run(command, **wrong)
        assert done.returncode == 2, done.stderr
        assert "partitions is 2, expected 3" in done.stderr
        assert "Traceback" not in done.stderr


async def test_a_worker_without_topics_is_code_2(env: Mapping[str, str]) -> None:
    """It says what to run."""
    done = await run("worker", **env)
    assert done.returncode == 2, done.stderr
    assert "run `dlq-stream init`" in done.stderr


async def test_status_without_topics_is_code_2(env: Mapping[str, str]) -> None:
    """A wrong app id is the usual reason."""
    done = await run("status", **env)
    assert done.returncode == 2
    assert f"check app_id '{env['DLQ_APP_ID']}'" in done.stderr


async def test_status_of_an_app_that_has_seen_nothing(env: Mapping[str, str]) -> None:
    """Zeros, not an error."""
    await run("init", **env)
    text = await run("status", **env)
    assert text.returncode == 0
    assert "No failure was ever reported." in text.stdout
    told = json.loads((await run("status", "--json", **env)).stdout)
    assert (told["queues"], told["updated_ms"], told["lag"]) == ([], None, {"failures": 0, "commands": 0})


def row(queue: str, partition: int, **figures: int | dict[str, int]) -> tuple[bytes, bytes, int]:
    return stats_key(queue, partition), codec.encode(Stats(**figures)), partition


async def test_status_sums_the_latest_rows_over_partitions(kafka: LocalKafka, env: Mapping[str, str]) -> None:
    """Committed rows only, the latest of each key; deleted ones are gone; a partition's own figures are apart."""
    await run("init", **env)
    app, now = env["DLQ_APP_ID"], int(time.time() * 1000)
    topic = f"{app}-stats-changelog"

    async def write(rows: list[tuple[bytes, bytes | None, int]], *, commit: bool = True) -> None:
        records = [Outgoing(topic, value, key, partition=partition) for key, value, partition in rows]
        await produce(kafka.bootstrap, records, transactional_id=unique_name("t"), commit=commit)

    old, young = now - 250_000, now - 5_000
    why = {"stuck_reasons": {"record-missing": 1}}
    await write([row("heat", 0, pending=99), row("gone", 0, pending=5)])
    await write(
        [
            row("heat", 0, pending=1, retrying=2, failures=10, oldest_open_ms=young, updated_ms=young),
            row("heat", 1, pending=3, escalated=4, stuck=1, oldest_open_ms=old, ignored={"duplicate": 2}, **why),
            row("water", 1, resolved=7, purged=8, escalated=1, unwritten=1, unwritten_reasons={"missing": 1}),
            row("water", 0, escalated=2, unwritten=2, unwritten_reasons={"too-large": 1, "missing": 1}),
            row("", 1, quarantined=6, forwarded=5, ignored={"unknown": 1}),
            (stats_key("gone", 0), None, 0),
        ]
    )
    await write([row("heat", 0, pending=1000)], commit=False)
    told = json.loads((await run("status", "--json", **env)).stdout)
    assert [queue["queue"] for queue in told["queues"]] == ["heat", "water"]
    heat = told["queues"][0]
    assert (heat["pending"], heat["retrying"], heat["escalated"], heat["stuck"]) == (4, 2, 4, 1)
    assert (heat["oldest_open_ms"], heat["totals"]["failures"]) == (old, 10)
    assert 250 <= heat["oldest_open_age_seconds"] < 400
    assert (heat["stuck_reasons"], heat["unwritten_reasons"]) == ({"record-missing": 1}, {})
    assert told["queues"][1]["unwritten_reasons"] == {"missing": 2, "too-large": 1}
    assert told["total"]["unwritten_reasons"] == {"missing": 2, "too-large": 1}
    assert (told["total"]["resolved"], told["total"]["totals"]["purged"]) == (7, 8)
    assert (told["quarantined"], told["forwarded"]) == (6, 5)
    assert told["ignored"] == {"duplicate": 2, "unknown": 1}
    assert told["updated_ms"] == young
    text = (await run("status", **env)).stdout
    lines = text.splitlines()
    assert lines[2].split() == [
        "QUEUE", "PENDING", "RETRYING", "RESOLVED", "ESCALATED", "STUCK", "UNWRITTEN", "OLDEST", "OPEN",
    ]  # fmt: skip
    assert lines[3].split()[:7] == ["heat", "4", "2", "0", "4", "1", "0"]
    assert lines[3].split()[7].startswith("4m")
    assert lines[5].split()[:4] == ["(all)", "4", "2", "7"]
    assert len({len(line) for line in lines[2:6]}) == 1
    assert "stuck in heat: record-missing 1\nunwritten in water: missing 2, too-large 1\n" in text
    assert "ignored 3 (duplicate 2, unknown 1)" in text


async def test_status_shows_what_the_workers_have_not_processed(kafka: LocalKafka, env: Mapping[str, str]) -> None:
    """Records between the group's committed offsets and the end; transaction markers alone are none."""
    await run("init", **env)
    app = env["DLQ_APP_ID"]
    failures, commands = f"{app}-failures", f"{app}-commands"
    await produce(kafka.bootstrap, [Outgoing(failures, b"x", b"k", partition=0)] * 3)
    await produce(kafka.bootstrap, [Outgoing(commands, b"x", b"k", partition=1)], transactional_id=unique_name("t"))

    async def lag() -> dict[str, int]:
        told: dict[str, int] = json.loads((await run("status", "--json", **env)).stdout)["lag"]
        return told

    assert (await lag())["failures"] == 3
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=app, enable_auto_commit=False)
    async with consumer:
        places = {TopicPartition(failures, 0): 2, TopicPartition(commands, 1): 1}
        consumer.assign(list(places))
        await consumer.commit(places)
    assert await lag() == {"failures": 1, "commands": 0}


async def test_json_logs_are_json(env: Mapping[str, str]) -> None:
    """With --log-format json every line on standard error of a started worker is an object."""
    done = await run("worker", "--log-format", "json", DLQ_PARTITON="1", **env)
    assert done.returncode == 2
    *logged, last = done.stderr.splitlines()
    assert last.startswith(("Error: ", "topic "))
    first = json.loads(logged[0])
    assert first["level"] == "warning"
    assert "did you mean 'DLQ_PARTITIONS'" in first["message"]
