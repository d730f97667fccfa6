"""The whole loop as most people have it: a `RetryConsumer`, a worker, and nothing between them but Kafka."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from dlq_stream import Permanent, RetryAfter, RetryConsumer
from dlq_stream.core.model import Record
from tests.integration.conftest import MakeApp
from tests.integration.harness import App, id_of, own
from tests.kafka_clients import Outgoing, read_topic
from tests.kafka_fixture import LocalKafka

RETRY_AFTER_MS = 1_500
GROUP = "furnaces"
VALUES = (b"fine", b"hopeless", b"busy", b"slow")


@pytest.mark.parametrize("emit_to", ["source", "retry"])
async def test_what_fails_comes_back_until_it_succeeds(kafka: LocalKafka, make_app: MakeApp, emit_to: str) -> None:
    """In the source topic or in one of its own, which `init` has made; verdicts count; traffic is understood."""
    app = await make_app(kafka, emit_to=emit_to, max_retries=3)
    source = await app.source()
    await app.init(source)
    written = await app.produced(*(Outgoing(source, value, b"key-" + value, partition=1) for value in VALUES))
    places = {record.value: id_of(record, GROUP) for record in written}
    seen: Counter[bytes] = Counter()

    async def handle(record: Record) -> None:
        value = record.value or b""
        seen[value] += 1
        if value == b"hopeless":
            raise Permanent("broken for good")
        if value == b"busy" and seen[value] == 1:
            raise RetryAfter(RETRY_AFTER_MS / 1000)
        if value == b"slow" and seen[value] <= 2:
            raise TimeoutError("no answer")

    await app.worker().start()
    consumer = RetryConsumer(
        source, GROUP, handle, app.bootstrap, app_id=app.app_id, commit_seconds=0.2, traffic_seconds=0.5
    )
    running = asyncio.create_task(consumer.run())
    try:
        await app.figures(source, resolved=2, escalated=1, retrying=0, pending=0)
    finally:
        consumer.stop()
        await running
    assert seen == {b"fine": 1, b"hopeless": 1, b"busy": 2, b"slow": 3}
    await check_retries(app, source if emit_to == "source" else f"{source}-retry", places)
    (given_up,) = await app.until(f"{source}-dlq", 1)
    assert (given_up.value, own(given_up)["dlq-error-message"]) == (b"hopeless", b"broken for good")
    assert await read_topic(app.bootstrap, app.topic("quarantine")) == []
    if emit_to == "retry":
        assert len(await app.read(source)) == len(VALUES), "others who read the source see nothing of it"


async def check_retries(app: App, topic: str, places: dict[bytes, str]) -> None:
    """Three retries, by their messages' ids; the one that was asked for later came later."""
    retries = [record for record in await app.read(topic) if own(record)]
    assert Counter(record.value for record in retries) == {b"busy": 1, b"slow": 2}
    assert all(own(record)["dlq-message-id"].decode() == places[record.value] for record in retries)
    (busy,) = [record for record in retries if record.value == b"busy"]
    told = own(busy)
    assert int(told["dlq-due-at"]) - int(told["dlq-first-failed-at"]) >= RETRY_AFTER_MS
