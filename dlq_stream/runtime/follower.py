"""Following the changelogs of a partition that another worker owns.

What is read, trusted and written is what `changelog` reads, trusts and writes; only that there is no end to it, that
nobody was fenced before, and that this worker has other work: rows are applied in small steps, between which the event
loop runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NoReturn

import aiokafka
from aiokafka import TopicPartition

from dlq_stream.runtime.changelog import STALL_SECONDS_MAX, KafkaChangelog
from dlq_stream.runtime.ports import Unavailable

CHUNK_ROWS_MAX = 250
"""Rows per atomic write; a few milliseconds of the event loop."""

FETCH_BYTES_MAX = 1 << 20
"""Bytes per changelog that one fetch brings."""

FETCH_WAIT_MS = 500
"""How long a broker holds back the answer to a fetch without records; with some it answers at once."""

STAMP_SECONDS = 60.0
"""How often it is looked whether everything is there, after it was for the first time."""


class KafkaFollower(KafkaChangelog):
    """`dlq_stream.runtime.standby.Followed`."""

    async def follow(self, caught_up: Callable[[int], None]) -> NoReturn:
        """See `Followed.follow`."""
        options = {"fetch_max_wait_ms": FETCH_WAIT_MS, "max_partition_fetch_bytes": FETCH_BYTES_MAX}
        async with self._consumer(**options) as consumer:
            asked_ms = self._clock.now_ms()
            end = await self._sought(consumer)
            rows = await self._up_to(consumer, end)
            await self._complete_as_of(asked_ms, consumer)
            caught_up(rows)
            time = asyncio.get_running_loop().time
            while True:
                stop = time() + STAMP_SECONDS
                while time() < stop:
                    await self._step(consumer)
                asked_ms = self._clock.now_ms()
                await self._up_to(consumer, await self._stable_ends(consumer))
                await self._complete_as_of(asked_ms, consumer)

    async def _up_to(self, consumer: aiokafka.AIOKafkaConsumer, end: Mapping[TopicPartition, int]) -> int:
        """Apply what lies before these last stable offsets, the commit markers among it; returns how many rows."""
        rows = 0
        time = asyncio.get_running_loop().time
        progress = time()
        while [tp for tp in self._topics if await consumer.position(tp) < end[tp]]:
            found = await self._step(consumer)
            rows += found
            now = time()
            if found:
                progress = now
            elif now - progress > STALL_SECONDS_MAX:
                raise TimeoutError(f"no answer for {STALL_SECONDS_MAX:g} s")
        return rows

    async def _step(self, consumer: aiokafka.AIOKafkaConsumer) -> int:
        """Apply what comes next, a bounded number of rows; returns how many."""
        rows = 0
        fetched = await consumer.getmany(timeout_ms=FETCH_WAIT_MS, max_records=CHUNK_ROWS_MAX)
        if fetched:
            self._still_trusted()
        for tp, records in fetched.items():
            self._goes_on(tp, records[0].offset)
            rows += self._apply(self._topics[tp], records)
            await asyncio.sleep(0)
        return rows

    def _still_trusted(self) -> None:
        """Go on only if no tombstone can have been missed since everything was there; this process may have slept."""
        age_ms = self._clock.now_ms() - self._as_of_ms
        if age_ms > self._origin.delete_retention_ms:
            self._trusted = False  # the next try deletes the store, and says why
            raise Unavailable(f"partition {self._partition} was not followed for {age_ms // 1000} s")

    def _goes_on(self, tp: TopicPartition, offset: int) -> None:
        """Raise RuntimeError where a changelog begins again, as aiokafka does where it ends before our position."""
        stored = self._store.offset(self._topics[tp])
        if stored is not None and offset <= stored:
            raise RuntimeError(f"{tp} was read up to {stored} and goes on at {offset}: truncated, or created anew?")

    async def _complete_as_of(self, asked_ms: int, consumer: aiokafka.AIOKafkaConsumer) -> None:
        """Stamp the store; with the offsets behind the last markers, which an owner then need not read again."""
        offsets = {table: await consumer.position(tp) - 1 for tp, table in self._topics.items()}
        self._complete(asked_ms, {table: offset for table, offset in offsets.items() if offset >= 0})
