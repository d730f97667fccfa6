"""The incarnation markers: the first record of every changelog partition, by which workers know their state.

`init` writes those that are missing in one transaction, so that an interrupted init leaves all of them or none, and two
at once do not mix: the second fences the first.  A changelog that has some already (it was given more partitions, say)
keeps its incarnation; a changelog without any gets a new one, which makes workers rebuild what they hold locally.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import IllegalOperation, ProducerFenced

from dlq_stream.core.connection import Brokers
from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError
from dlq_stream.kafka import reader, writer
from dlq_stream.tables import marker
from dlq_stream.tables.marker import MARKER_KEY, Marker
from dlq_stream.topics.names import AppTopics

READ_SECONDS_MAX = 20.0
"""How long reading the first record of every changelog partition may take."""

LOOK_SECONDS = 0.05
"""Pause between two looks at markers that were written and are not to be seen yet."""

TRANSACTION_SECONDS_MAX = 30.0
"""After so long the brokers abort an init that died while it wrote markers."""

TRIES_MAX = 20
"""How often an init that others fenced tries again."""

Markers = dict[tuple[str, int], Marker | None]
"""What the first record of each changelog partition is; None where the partition is empty."""


async def read_markers(consumer: AIOKafkaConsumer, app_id: str, topics: Mapping[str, int]) -> Markers:
    """The markers in ``topics`` (names to partition counts), by topic and partition.

    ``consumer`` reads committed records, without a group.  Raises ConfigurationError where a changelog begins with
    anything else, or with another app's marker; UnsupportedFormat where its rows are too new for this version.
    """
    partitions = [TopicPartition(topic, number) for topic, count in topics.items() for number in range(count)]
    consumer.assign(partitions)
    ends = await consumer.end_offsets(partitions)
    begins = await consumer.beginning_offsets(partitions)
    for partition in partitions:
        consumer.seek(partition, begins[partition])
    found: Markers = {(one.topic, one.partition): None for one in partitions}
    waiting = {one for one in partitions if begins[one] < ends[one]}
    consumer.pause(*(set(partitions) - waiting))
    deadline = time.monotonic() + READ_SECONDS_MAX
    while waiting:
        for one, records in (await consumer.getmany(*waiting, timeout_ms=200)).items():
            if one in waiting and records:
                found[one.topic, one.partition] = _marker_in(records[0], app_id)
                waiting.discard(one)
                consumer.pause(one)
        # What was aborted is never delivered: the position alone tells that nothing is there.
        waiting = {one for one in waiting if await consumer.position(one) < ends[one]}
        if waiting and time.monotonic() > deadline:
            raise BrokersUnavailable(f"changelogs not readable within {READ_SECONDS_MAX:g} s: {sorted(waiting)}")
    return found


def _marker_in(record: Any, app_id: str) -> Marker:
    where = f"changelog {record.topic} partition {record.partition}"
    if record.key != MARKER_KEY:
        raise ConfigurationError(
            f"{where} begins with a record that `dlq-stream init` did not write; it belongs to something else, "
            f"or its beginning was deleted: choose another app_id, or delete the app's topics and run init"
        )
    found = marker.decode(record.value)
    if found.app_id != app_id:
        raise ConfigurationError(f"{where} belongs to the app {found.app_id!r}, not to {app_id!r}; was it mirrored?")
    return found


def incarnations_of(markers: Markers) -> dict[str, str]:
    """Each changelog's incarnation.  Raises ConfigurationError where one is missing or two differ in one topic."""
    found: dict[str, str] = {}
    for (topic, partition), one in markers.items():
        if one is None:
            raise ConfigurationError(
                f"changelog {topic} partition {partition} has no incarnation marker: run `dlq-stream init`, "
                f"which completes what an interrupted init left"
            )
        if found.setdefault(topic, one.incarnation) != one.incarnation:
            raise ConfigurationError(
                f"changelog {topic} has partitions of two incarnations: delete the app's topics and run init"
            )
    return found


async def complete_markers(brokers: Brokers, app_id: str, topics: Mapping[str, int]) -> int:
    """Write the markers that the changelogs ``topics`` lack; returns how many that were.

    What is missing is looked up again after the producer has started, which ends what another init left open and keeps
    it from committing: so no partition gets two markers.  Whoever was fenced in this way (a deployment may well run
    init in each of its pods) looks again after a while that differs from the others'.
    """
    async with reader(brokers) as consumer:
        for attempt in range(TRIES_MAX):
            if None not in (await read_markers(consumer, app_id, topics)).values():
                return 0
            try:
                async with _producer(brokers, app_id) as producer:
                    written = await _write_missing(producer, app_id, await read_markers(consumer, app_id, topics))
                await _until_complete(consumer, app_id, topics)
                return written
            except (ProducerFenced, IllegalOperation):  # the latter where the fencing was noticed between two calls
                await asyncio.sleep(random.uniform(0.1, 0.2 * (attempt + 1)))
    raise ConfigurationError(f"other `dlq-stream init`s of {app_id!r} kept taking over; run it again")


async def _until_complete(consumer: AIOKafkaConsumer, app_id: str, topics: Mapping[str, int]) -> None:
    """Wait until all markers can be read: a commit is answered before every partition was told of it, and a worker that
    starts in between would find some missing.
    """
    deadline = time.monotonic() + READ_SECONDS_MAX
    while None in (await read_markers(consumer, app_id, topics)).values():
        if time.monotonic() > deadline:
            raise BrokersUnavailable(f"markers were written, but are not readable within {READ_SECONDS_MAX:g} s")
        await asyncio.sleep(LOOK_SECONDS)


def _producer(brokers: Brokers, app_id: str) -> AbstractAsyncContextManager[AIOKafkaProducer]:
    return writer(
        brokers,
        transactional_id=AppTopics(app_id).init_transaction,
        transaction_timeout_ms=int(TRANSACTION_SECONDS_MAX * 1000),
        retry_backoff_ms=10,
    )


async def _write_missing(producer: AIOKafkaProducer, app_id: str, markers: Markers) -> int:
    missing = [place for place, one in markers.items() if one is None]
    if not missing:
        return 0
    known = {topic: one.incarnation for (topic, _), one in markers.items() if one is not None}
    fresh = uuid.uuid4().hex
    async with asyncio.timeout(TRANSACTION_SECONDS_MAX), producer.transaction():
        sent = []
        for topic, partition in missing:
            value = marker.encode(Marker(known.get(topic, fresh), app_id))
            try:
                sent.append(await producer.send(topic, value, key=MARKER_KEY, partition=partition))
            except IllegalOperation as illegal:  # since the transaction has failed already: that says more
                raise _end_of_transaction(producer) or illegal from illegal
            sent[-1].add_done_callback(_seen)  # where a later send fails, nobody comes to ask this one
        await asyncio.gather(*sent)
    return len(missing)


def _end_of_transaction(producer: AIOKafkaProducer) -> BaseException | None:
    """What ended the open transaction, if something did."""
    waiter: asyncio.Future[Any] = producer._txn_manager._transaction_waiter
    return waiter.exception() if waiter.done() and not waiter.cancelled() else None


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
