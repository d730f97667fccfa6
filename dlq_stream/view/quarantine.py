"""The quarantine topic, read; and records of it sent round again, with what became of them.

Nothing in the topic is changed or deleted: what was sent again stays listed until retention takes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import MessageSizeTooLargeError

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.engine.quarantine import PACKED_BYTES_MAX
from dlq_stream.kafka import reader, writer
from dlq_stream.reading import records_between, records_until
from dlq_stream.settings import Settings
from dlq_stream.view.app import AppReader, AsOf, now_ms
from dlq_stream.view.carrying import LOOK_SECONDS
from dlq_stream.view.pace import Pace
from dlq_stream.view.restored import Held, Place, Returning, held, returning

RECORDS_MAX = 100_000
"""More records that fit are an error that asks for a narrower filter; so many take about a hundred megabytes."""


class Fate(StrEnum):
    """What became of a record that was to be sent again.

    * ``TAKEN_IN``: a worker understood it this time.
    * ``HELD_AGAIN``: it is in quarantine again, under another place.
    * ``UNCONFIRMED``: sent, but no worker has had it yet.
    * ``IMPOSSIBLE``: not sent, it cannot be.
    * ``ABSENT``: not sent, there is no such record (any more).
    * ``NOT_SENT``: not sent, told to stop before.
    """

    TAKEN_IN = "taken_in"
    HELD_AGAIN = "held_again"
    UNCONFIRMED = "unconfirmed"
    IMPOSSIBLE = "impossible"
    ABSENT = "absent"
    NOT_SENT = "not_sent"


@dataclass(slots=True)
class Return:
    """One record that is to be sent again."""

    place: Place
    fate: Fate = Fate.NOT_SENT
    said: str = ""
    """Why it is impossible, or why and where it is held again."""
    sent_to: tuple[str, int, int] | None = None
    """Topic, partition and offset of what was sent, once it was acknowledged."""


@dataclass(frozen=True, slots=True)
class Listed:
    """The records in quarantine that fit, the oldest first."""

    as_of: AsOf
    records: list[Held]
    ends: Mapping[int, int]
    """By partition, the offset where reading ended."""


async def read_quarantine(app: AppReader, fits: Callable[[Held, int], bool]) -> Listed:
    """All records that fit; ``fits`` gets a record and the time.  ConfigurationError beyond `RECORDS_MAX`."""
    places = [TopicPartition(app.topics.quarantine, number) for number in range(app.partitions)]
    app.consumer.assign(places)
    as_of_ms, updated_ms = now_ms(), 0
    ends = await app.consumer.end_offsets(places)
    await app.consumer.seek_to_beginning(*places)
    found: list[Held] = []
    async for record in records_until(app.consumer, ends):
        updated_ms = max(updated_ms, record.timestamp)
        told = held(record)
        if fits(told, as_of_ms):
            found.append(told)
            if len(found) > RECORDS_MAX:
                raise ConfigurationError(
                    f"more than {RECORDS_MAX:,} records fit; narrow it down with --kind, --reason or --older-than"
                )
    found.sort(key=lambda told: (told.timestamp_ms, told.place))
    as_of = AsOf(as_of_ms, updated_ms or None, await app.lag())
    return Listed(as_of, found, {place.partition: end for place, end in ends.items()})


async def records_at(app: AppReader, places: Collection[Place]) -> AsyncIterator[ConsumerRecord]:
    """The records at these places, in no particular order; those that are not there are left out."""
    wanted = set(places)
    topic = app.topics.quarantine
    partitions = {place.partition for place in wanted if place.partition < app.partitions}
    assigned = [TopicPartition(topic, number) for number in partitions]
    if not assigned:
        return
    app.consumer.assign(assigned)
    begins, ends = await app.consumer.beginning_offsets(assigned), await app.consumer.end_offsets(assigned)
    until = {}
    for place in assigned:
        offsets = [each.offset for each in wanted if each.partition == place.partition]
        app.consumer.seek(place, min(max(min(offsets), begins[place]), ends[place]))
        until[place] = min(max(offsets) + 1, ends[place])
    async for record in records_until(app.consumer, until):
        if Place(record.partition, record.offset) in wanted:
            yield record


async def send_again(
    settings: Settings,
    app: AppReader,
    returns: Collection[Return],
    on_settled: Callable[[Return], None],
    *,
    rate: float | None,
    confirm_seconds: float,
) -> None:
    """Send the records to where they came from, and wait until the workers have had them.

    Where nothing is confirmed for ``confirm_seconds`` the rest stays `Fate.UNCONFIRMED`.  Raises what aiokafka raises;
    ``returns`` then tell how far it came.
    """
    ends = await _ends(app, app.consumer)
    by_place = {each.place: each for each in returns}
    intake = (app.topics.failures, app.topics.commands)
    pace = Pace(rate, time.monotonic, asyncio.sleep)
    # Packed for those that only fitted packed when they came; brokers limit what arrives, aiokafka what is handed over.
    options = {"compression_type": "gzip", "max_request_size": PACKED_BYTES_MAX + settings.record_bytes_max}
    async with writer(settings.connection, **options) as producer:
        async for record in records_at(app, by_place):
            one = by_place[Place(record.partition, record.offset)]
            try:
                back = returning(record, intake, app.topics.failures, app.partitions)
            except ValueError as wrong:
                one.fate, one.said = Fate.IMPOSSIBLE, str(wrong)
                continue
            await pace.turn()
            one.fate = Fate.UNCONFIRMED
            try:
                written = await (await _send(producer, back))
            except MessageSizeTooLargeError:
                one.fate, one.said = Fate.IMPOSSIBLE, f"it is larger than {back.topic} takes"
                continue
            one.sent_to = (written.topic, written.partition, written.offset)
    for one in returns:
        if one.fate is Fate.NOT_SENT:
            one.fate = Fate.ABSENT
        if one.fate is not Fate.UNCONFIRMED:
            on_settled(one)
    async with reader(settings.connection, committed_only=False) as far:
        await _until_all_had(app, far, [one for one in returns if one.sent_to], ends, on_settled, confirm_seconds)


async def _send(producer: AIOKafkaProducer, back: Returning) -> Any:
    if back.key is not None or back.value is not None:
        return await producer.send(
            back.topic, back.value, back.key, partition=back.partition, headers=list(back.headers)
        )
    # Kafka takes a record without key and value, aiokafka's send() does not, its batches do.
    batch = producer.create_batch()
    batch.append(key=None, value=None, timestamp=None, headers=list(back.headers))
    return await producer.send_batch(batch, back.topic, partition=back.partition)


async def _ends(app: AppReader, consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
    places = [TopicPartition(app.topics.quarantine, number) for number in range(app.partitions)]
    ends: dict[TopicPartition, int] = await consumer.end_offsets(places)
    return ends


async def _until_all_had(
    app: AppReader,
    far: AIOKafkaConsumer,
    waiting: list[Return],
    ends: dict[TopicPartition, int],
    on_settled: Callable[[Return], None],
    confirm_seconds: float,
) -> None:
    """What was committed beyond a record was processed, and what it said was put into quarantine in that transaction.

    Its end may reach the quarantine later than the offsets: that is read past everything that was written to it.
    """
    app.consumer.assign(list(ends))
    for place, end in ends.items():
        app.consumer.seek(place, end)
    again: dict[tuple[str, int | None, int | None], Held] = {}
    quiet_since = time.monotonic()
    while waiting and time.monotonic() - quiet_since <= confirm_seconds:
        committed = await app.committed()
        had = [one for one in waiting if one.sent_to and committed.get(one.sent_to[:2], 0) > one.sent_to[2]]
        if not had:
            await asyncio.sleep(LOOK_SECONDS)
            continue
        async for record in records_between(app.consumer, ends, await _ends(app, far)):
            told = held(record)
            again[told.topic, told.partition, told.offset] = told
        for one in had:
            assert one.sent_to is not None
            if (back := again.get(one.sent_to)) is not None:
                one.fate, one.said = Fate.HELD_AGAIN, f"as {back.place}: {back.reason}"
            else:
                one.fate = Fate.TAKEN_IN
            on_settled(one)
        waiting = [one for one in waiting if one.fate is Fate.UNCONFIRMED]
        quiet_since = time.monotonic()
    for one in waiting:
        on_settled(one)
