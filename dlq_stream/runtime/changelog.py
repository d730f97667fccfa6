"""Bringing a partition's store up to date from its changelogs.

The changelogs are read ``read_committed`` to their end, with a consumer of our own: Faust's own recovery can be skipped
altogether (a high-water mark that is not known yet counts as "nothing to recover"), waits five seconds at commit
markers, and applies values and offsets in separate writes.  Here each chunk of rows, the index entries derived from
them and the offsets are one atomic write.

A local state is only trusted if it was built from these very changelogs: same app, cluster, partition count and
incarnation (the marker that ``init`` wrote as the first record of each), not ahead of them, and younger than
``delete.retention.ms`` (an older one may have missed tombstones).  Anything else is deleted and built anew, loudly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiokafka
from aiokafka import TopicPartition, errors

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.kafka import no_topic_creation, stop_consumer
from dlq_stream.runtime.output_notes import outputs_at_the_ends
from dlq_stream.runtime.ports import Clock, Latest, Unavailable
from dlq_stream.runtime.replay import changes_of
from dlq_stream.runtime.rocks import RocksStore
from dlq_stream.tables import MAJOR, TABLES, marker

log = logging.getLogger(__name__)

CHUNK_ROWS_MAX = 5_000
"""Rows per atomic write while restoring: between two, the event loop runs."""

STALL_SECONDS_MAX = 10.0
"""A restore without any progress for this long counts as brokers that do not answer."""

FETCH_MS_MAX = 1_000
"""How long one look at what is not committed yet may take; fetches wait a tenth of it."""

PROGRESS_SECONDS = 2.0
"""How often a long restore says in the log how far it is."""


@dataclass(frozen=True, slots=True)
class StateOrigin:
    """What a local state must have been built from to be trusted."""

    app_id: str
    cluster_id: str
    partitions: int
    delete_retention_ms: int


class KafkaChangelog:
    """`dlq_stream.runtime.ports.Changelog`: the changelogs of one partition, and the store they are applied to."""

    def __init__(
        self, partition: int, store: RocksStore, origin: StateOrigin, clock: Clock, options: Mapping[str, Any]
    ) -> None:
        self._partition = partition
        self._store = store
        self._origin = origin
        self._clock = clock
        self._options = options
        self._trusted = False
        self._as_of_ms = 0
        self._topics = {TopicPartition(spec.changelog(origin.app_id), partition): spec.name for spec in TABLES}

    async def catch_up(self) -> int:
        """See `Changelog.catch_up`."""
        async with self._consumer(fetch_max_wait_ms=100, max_partition_fetch_bytes=4 << 20) as consumer:
            return await self._read(consumer)

    async def latest(self) -> Latest:
        """See `Changelog.latest`."""
        async with self._consumer() as consumer:
            stable = await self._stable_ends(consumer)
        options = {"isolation_level": "read_uncommitted", "fetch_max_wait_ms": 10}
        async with self._consumer(**options) as consumer:
            written = await self._stable_ends(consumer)  # to it, everything is stable
            outputs = await outputs_at_the_ends(consumer, {tp: (stable[tp], written[tp]) for tp in self._topics})
        stored = {tp: self._store.offset(table) for tp, table in self._topics.items()}
        return Latest(
            frozenset(outputs) | {(tp.topic, tp.partition) for tp in self._topics},
            hangs=any(stable[tp] < written[tp] for tp in self._topics),
            applied=any(offset is not None and stable[tp] <= offset < written[tp] for tp, offset in stored.items()),
        )

    @asynccontextmanager
    async def _consumer(self, **options: Any) -> AsyncIterator[aiokafka.AIOKafkaConsumer]:
        """A consumer of these changelogs; silent brokers are `Unavailable`."""
        options.setdefault("isolation_level", "read_committed")
        consumer = no_topic_creation(
            aiokafka.AIOKafkaConsumer(
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                request_timeout_ms=int(STALL_SECONDS_MAX * 1000),
                **self._options,
                **options,
            )
        )
        try:
            async with asyncio.timeout(STALL_SECONDS_MAX):
                await consumer.start()
            consumer.assign(list(self._topics))
            yield consumer
        except (errors.KafkaConnectionError, errors.KafkaTimeoutError, errors.NodeNotReadyError, TimeoutError) as error:
            raise Unavailable(f"changelogs of partition {self._partition}: {error!r}") from error
        finally:
            await stop_consumer(consumer)

    async def _read(self, consumer: aiokafka.AIOKafkaConsumer) -> int:
        asked_ms = self._clock.now_ms()
        end = await self._sought(consumer)
        todo = []
        for tp, stop in end.items():
            if await consumer.position(tp) < stop:
                todo.append(tp)
            else:
                consumer.pause(tp)
        rows = await self._apply_all(consumer, todo, end)
        self._complete(asked_ms)
        return rows

    async def _sought(self, consumer: aiokafka.AIOKafkaConsumer) -> Mapping[TopicPartition, int]:
        """Trust the store or delete it, seek to what it lacks, and say where that ends."""
        async with asyncio.timeout(STALL_SECONDS_MAX):
            begin = await consumer.beginning_offsets(list(self._topics))
        end = await self._stable_ends(consumer)
        if not self._trusted:
            await self._trust(consumer, begin, end)
        for tp, table in self._topics.items():
            stored = self._store.offset(table)
            consumer.seek(tp, max(begin[tp], 0 if stored is None else stored + 1))
        return end

    async def _stable_ends(self, consumer: aiokafka.AIOKafkaConsumer) -> Mapping[TopicPartition, int]:
        """The last stable offsets, which is what ``read_committed`` takes for the end."""
        async with asyncio.timeout(STALL_SECONDS_MAX):
            end: dict[TopicPartition, int] = await consumer.end_offsets(list(self._topics))
        return end

    def _complete(self, as_of_ms: int, offsets: Mapping[str, int] | None = None) -> None:
        """Note that nothing was missing at that instant, and up to which offsets that is."""
        self._as_of_ms = as_of_ms
        self._store.write({}, offsets or {}, as_of_ms)

    async def _apply_all(
        self, consumer: aiokafka.AIOKafkaConsumer, todo: list[TopicPartition], end: Mapping[TopicPartition, int]
    ) -> int:
        rows = 0
        time = asyncio.get_running_loop().time
        progress = said = time()
        while todo:
            fetched = await consumer.getmany(timeout_ms=100, max_records=CHUNK_ROWS_MAX)
            for tp, records in fetched.items():
                rows += self._apply(self._topics[tp], records)
            now = time()
            for tp in list(todo):
                position = await consumer.position(tp)
                if position >= end[tp]:  # beyond the last commit marker too
                    todo.remove(tp)
                    consumer.pause(tp)
                    self._store.write({}, {self._topics[tp]: end[tp] - 1}, self._as_of_ms)
                    progress = now
            if fetched:
                progress = now
            elif now - progress > STALL_SECONDS_MAX:
                raise TimeoutError(f"no answer for {STALL_SECONDS_MAX:g} s")
            if now - said > PROGRESS_SECONDS:
                said = now
                left = {self._topics[tp]: end[tp] - await consumer.position(tp) for tp in todo}
                log.info("partition %d: %d rows restored, records left: %s", self._partition, rows, left)
        return rows

    def _apply(self, table: str, records: list[Any]) -> int:
        """Apply one chunk of a table's changelog in one atomic write.

        The stamp of the store stays what it was until everything is there: tombstones that follow may be compacted away
        before they are read, and only who has read everything within ``delete.retention.ms`` has seen all of them.
        """
        rows = {record.key: record.value for record in records if record.key != marker.MARKER_KEY}
        self._store.write(changes_of(self._store, table, rows), {table: records[-1].offset}, self._as_of_ms)
        return len(rows)

    # --- trust --------------------------------------------------------------------------------------------------

    async def _trust(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        begin: Mapping[TopicPartition, int],
        end: Mapping[TopicPartition, int],
    ) -> None:
        """Delete the local state unless it was built from these changelogs."""
        incarnations: dict[str, str] = {}
        for tp, table in self._topics.items():
            incarnations[table] = await self._incarnation(consumer, tp, begin[tp], end[tp])
        identity = {
            "app_id": self._origin.app_id,
            "cluster_id": self._origin.cluster_id,
            "partitions": self._origin.partitions,
            "format": MAJOR,
            "incarnations": incarnations,
        }
        why = self._distrust(identity) or await self._ahead(consumer, end)
        if why:
            self._store.wipe(why)
        if self._store.identity() != identity:
            self._store.set_identity(identity)
        self._as_of_ms = self._store.written_ms() or self._clock.now_ms()
        self._trusted = True

    def _distrust(self, identity: Mapping[str, Any]) -> str | None:
        """Why the local state is not to be trusted; None where it is, or where there is none."""
        built_from = self._store.identity()
        if built_from is None:
            return None if self._store.written_ms() is None else "it does not say what it was built from"
        for field, value in identity.items():
            if built_from.get(field) != value:
                return f"{field} was {built_from.get(field)!r} and is {value!r}"
        written_ms = self._store.written_ms()
        age_ms = self._clock.now_ms() - (written_ms or 0)
        if written_ms is not None and age_ms > self._origin.delete_retention_ms:
            return f"it was last complete {age_ms // 1000} s ago, tombstones are kept for less"
        return None

    async def _ahead(self, consumer: aiokafka.AIOKafkaConsumer, end: Mapping[TopicPartition, int]) -> str | None:
        """Why the local state is not of these changelogs, if it is ahead of them.

        A former owner may hold what it has just committed before the brokers have told every partition of the commit;
        so what counts is what was written, not what is stable.
        """
        for tp, table in self._topics.items():
            stored = self._store.offset(table)
            if stored is not None and stored >= end[tp]:
                written = await self._written(consumer, tp, end[tp])
                if written is None:
                    raise Unavailable(f"changelog {tp.topic!r} does not say where it ends")
                if stored >= written:
                    return f"it is ahead of the changelog of table {table!r}: {stored} >= {written}"
        return None

    async def _incarnation(self, consumer: aiokafka.AIOKafkaConsumer, tp: TopicPartition, begin: int, end: int) -> str:
        if begin < end:
            consumer.seek(tp, begin)
            async with asyncio.timeout(STALL_SECONDS_MAX):
                first = await consumer.getone(tp)
            if first.key == marker.MARKER_KEY:
                return marker.decode(first.value).incarnation
        elif await self._holds_more(consumer, tp, end):
            raise Unavailable(f"the first records of changelog {tp.topic!r} are not committed yet")
        raise ConfigurationError(
            f"changelog {tp.topic!r} partition {tp.partition} does not begin with the incarnation marker: "
            f"run `dlq-stream init`, which writes it"
        )

    async def _holds_more(self, consumer: aiokafka.AIOKafkaConsumer, tp: TopicPartition, end: int) -> bool:
        """Whether there is, or may be, something beyond the last stable offset.

        Brokers answer a commit before they have told every partition of it; right after a topic was created, when some
        have no leader yet, that takes a while.
        """
        written = await self._written(consumer, tp, end)
        return written is None or written > end

    @staticmethod
    async def _written(consumer: aiokafka.AIOKafkaConsumer, tp: TopicPartition, end: int) -> int | None:
        """Where the changelog ends, whatever became of its last transaction; ``end`` is its last stable offset."""
        consumer.seek(tp, end)
        await consumer.getmany(tp, timeout_ms=FETCH_MS_MAX)
        highwater: int | None = consumer.highwater(tp)
        return highwater
