"""A fake Kafka: partitioned logs, transactional producers with epochs, commit markers, the last stable offset, groups.

It behaves as a broker that speaks the transaction protocol before KIP-890.  A commit is decided at one instant and
becomes visible later: markers are written to each partition in their own time, and until then readers of committed
records stop before the transaction's first record.  Everything here is instantaneous and synchronous; the way to the
broker and back, where things get lost, is `tests.simulation.life`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Literal

from dlq_stream.core.headers import record_size
from dlq_stream.core.model import Headers
from dlq_stream.runtime.ports import OutRecord

Place = tuple[str, int]
"""Topic and partition."""

TRANSACTION_SECONDS_MAX = 10.0
"""The coordinator aborts an older transaction and fences its producer."""

ONE_BY_ONE = 0.2
"""How often the markers of a transaction are written at different times, else all at once (which is cheaper here)."""

UNWANTED = b"unwanted"
"""Records whose value holds this are refused by sources, each for itself, as an invalid record is."""


class ProducerFenced(Exception):
    """The epoch is an old one."""


class Concurrent(Exception):
    """The producer's former transaction is still being completed; ask again."""


class ConnectionBroken(Exception):
    """The brokers were started again since the connection was made."""


class NoSuchTopic(Exception):
    """There is no such topic or partition."""


class TopicSilent(Exception):
    """The topic's brokers do not answer, while all others do."""


class BatchRefused(Exception):
    """The records at these positions, or the whole destination where there are none, are refused."""

    def __init__(self, reason: str, positions: Sequence[int] = ()) -> None:
        super().__init__(reason, positions)
        self.reason = reason
        self.positions = tuple(positions)


@dataclass(slots=True)
class Entry:
    """A record as it lies in a log; fits `dlq_stream.core.model.Record`."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    txn: Txn | None = None
    marker: bool = False

    def header(self, name: str) -> bytes | None:
        return next((value for key, value in reversed(self.headers) if key == name), None)


@dataclass(eq=False)
class Txn:
    """A transaction, with everything that was written in it."""

    number: int
    transactional_id: str
    epoch: int
    by: str
    state: Literal["open", "committed", "aborted"] = "open"
    entries: list[Entry] = field(default_factory=list)
    logs: dict[Place, Log] = field(default_factory=dict)
    offsets: dict[Place, int] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None


class Log:
    """One partition."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._open: dict[int, Entry] = {}
        self._committed: set[int] = set()

    @property
    def stable(self) -> int:
        """The last stable offset: where readers of committed records stop."""
        return min(entry.offset for entry in self._open.values()) if self._open else len(self.entries)

    def append(self, entry: Entry) -> None:
        if entry.txn is not None and not entry.marker:
            self._open.setdefault(entry.txn.number, entry)
        self.entries.append(entry)

    def mark(self, entry: Entry, txn: Txn) -> None:
        """Write the marker that ends ``txn`` here, and whatever else of the same producer is open."""
        self.append(entry)
        for number, first in list(self._open.items()):
            if first.txn is not None and first.txn.transactional_id == txn.transactional_id:
                del self._open[number]
                if txn.state == "committed":
                    self._committed.add(number)

    def read(self, position: int, records_max: int = 1_000_000) -> tuple[list[Entry], int]:
        """Committed records from ``position`` on, and the position after them."""
        found: list[Entry] = []
        stable = self.stable
        for entry in self.entries[position:stable]:
            if not entry.marker and (entry.txn is None or entry.txn.number in self._committed):
                found.append(entry)
                if len(found) == records_max:
                    return found, entry.offset + 1
        return found, max(position, stable)

    def read_uncommitted(self, position: int, records_max: int) -> tuple[list[Entry], int]:
        """Whatever is there: what is not decided yet, and what was aborted."""
        found = self.entries[position : position + records_max]
        return [entry for entry in found if not entry.marker], position + len(found)

    def wrongly_ended(self) -> list[Entry]:
        """Records that are not what was decided of their transactions: open yet, or ended otherwise."""
        written = [(entry, entry.txn) for entry in self.entries if entry.txn is not None and not entry.marker]
        return [
            entry
            for entry, txn in written
            if txn.number in self._open or (txn.state == "committed") != (txn.number in self._committed)
        ]

    def beyond(self, position: int) -> bool:
        """Whether there is a record at or after ``position``, decided or not."""
        return any(not entry.marker for entry in self.entries[position:])


class Feed:
    """Wakes those who wait for something new to read in some partitions of some topics."""

    def __init__(self) -> None:
        self._readers: list[tuple[asyncio.Event, Collection[int]]] = []

    def wake(self, reader: asyncio.Event, partitions: Collection[int]) -> None:
        """Set the event whenever there are news in one of the partitions, and no other any more."""
        self._readers = [known for known in self._readers if known[0] is not reader]
        if partitions:
            self._readers.append((reader, frozenset(partitions)))

    def news(self, partition: int) -> None:
        """Something was written there, or became visible."""
        for reader, partitions in self._readers:
            if partition in partitions:
                reader.set()


@dataclass
class Topic:
    """A topic; what can be changed about it is what chaos changes."""

    name: str
    logs: list[Log]
    feed: Feed | None
    picky: bool = False
    bytes_max: int = 1_000_000
    compacted: bool = False
    writable: bool = True
    silent: bool = False


@dataclass
class _Producing:
    epoch: int = -1
    txn: Txn | None = None
    completing: int = 0
    committed_last: bool = False
    hanging: list[Txn] = field(default_factory=list)


class Broker:
    """All brokers of a cluster, as one."""

    def __init__(self, random: Random, now_ms: Callable[[], int]) -> None:
        self.topics: dict[str, Topic] = {}
        self.offsets: dict[tuple[str, str, int], int] = {}
        self.decided: list[Callable[[Txn], None]] = []
        self.transactions = 0
        self.creates_topics = True
        self._random = random
        self._now_ms = now_ms
        self._producing: dict[str, _Producing] = {}
        self.incarnation = 0
        self.restarted: list[Callable[[], None]] = []
        self.forgetful = False

    # --- topics -------------------------------------------------------------------------------------------------

    def create(self, name: str, partitions: int, feed: Feed | None = None, *, picky: bool = False) -> Topic:
        topic = Topic(name, [Log() for _ in range(partitions)], feed, picky)
        self.topics[name] = topic
        return topic

    def delete(self, name: str) -> None:
        """Delete a topic; what was written to it is gone, open transactions included."""
        del self.topics[name]

    def log(self, topic: str, partition: int) -> Log:
        known = self.topics.get(topic)
        if known is None or partition >= len(known.logs):
            raise NoSuchTopic(f"{topic}-{partition}")
        return known.logs[partition]

    def produce(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers = ()
    ) -> Entry:
        """Write a record without a transaction."""
        log = self.log(topic, partition)
        entry = Entry(topic, partition, len(log.entries), self._now_ms(), key, value, headers)
        log.append(entry)
        self._tell(topic, partition)
        return entry

    def _tell(self, topic: str, partition: int) -> None:
        known = self.topics.get(topic)
        if known is not None and known.feed is not None:
            known.feed.news(partition)

    # --- transactions -------------------------------------------------------------------------------------------

    def init_producer(self, transactional_id: str) -> int:
        """A new epoch, which fences earlier ones.  Raises `Concurrent` until what they left is completed."""
        producing = self._producing.setdefault(transactional_id, _Producing())
        if producing.txn is not None:
            producing.epoch += 1
            self._end(producing, producing.txn, "aborted")
        if producing.completing:
            raise Concurrent(transactional_id)
        producing.epoch += 1
        return producing.epoch

    def committed_last(self, transactional_id: str) -> bool:
        """Whether the latest transaction of the id was committed.

        Kafka forgets that when the id is fenced; see `dlq_stream.runtime.settlement` for the gap that this leaves,
        which is not simulated.
        """
        return self._producing[transactional_id].committed_last

    def settle(self, transactional_id: str, epoch: int, places: Iterable[Place], *, commit: bool) -> None:
        """A transaction without records over these places and the offsets, from its begin to its end."""
        txn = self.begin(transactional_id, epoch, "settlement")
        txn.logs = {place: self.log(*place) for place in sorted(places) if place[0] in self.topics}
        self._end(self._checked_open(txn), txn, "committed" if commit else "aborted", settles=True)

    def begin(self, transactional_id: str, epoch: int, by: str) -> Txn:
        producing = self._checked(transactional_id, epoch)
        if producing.completing:
            raise Concurrent(transactional_id)
        assert producing.txn is None, "a transaction is begun while another is open"
        self.transactions += 1
        txn = Txn(self.transactions, transactional_id, epoch, by)
        loop = asyncio.get_running_loop()
        txn.timer = loop.call_later(TRANSACTION_SECONDS_MAX, self._time_out, producing, txn)
        producing.txn = txn
        return txn

    def append(self, txn: Txn, topic: str, partition: int, records: Sequence[OutRecord]) -> int:
        """Write one record batch; returns the last offset."""
        self._checked_open(txn)
        log = self.log(topic, partition)
        self._accept(self.topics[topic], records)
        for key, value, headers in records:
            entry = Entry(topic, partition, len(log.entries), self._now_ms(), key, value, headers, txn)
            log.append(entry)
            txn.entries.append(entry)
        txn.logs[topic, partition] = log
        return len(log.entries) - 1

    @staticmethod
    def _accept(topic: Topic, records: Sequence[OutRecord]) -> None:
        """A record batch is taken or refused as a whole, whichever of its records is at fault."""
        if topic.silent:
            raise TopicSilent(topic.name)
        if not topic.writable:
            raise BatchRefused("not-authorised")
        if any(record_size(*record) > topic.bytes_max for record in records):
            raise BatchRefused("too-large", range(len(records)))
        if topic.picky and any(value is not None and UNWANTED in value for _, value, _ in records):
            raise BatchRefused("invalid-record", range(len(records)))

    def add_offsets(self, txn: Txn, offsets: Mapping[Place, int]) -> None:
        self._checked_open(txn)
        txn.offsets.update(offsets)

    def commit(self, txn: Txn) -> None:
        self._end(self._checked_open(txn), txn, "committed")

    def _checked(self, transactional_id: str, epoch: int) -> _Producing:
        producing = self._producing[transactional_id]
        if producing.epoch != epoch:
            raise ProducerFenced(f"{transactional_id}: epoch {epoch} is not {producing.epoch}")
        return producing

    def _checked_open(self, txn: Txn) -> _Producing:
        producing = self._checked(txn.transactional_id, txn.epoch)
        assert producing.txn is txn, "the epoch is right, and the transaction another one"
        return producing

    def _time_out(self, producing: _Producing, txn: Txn) -> None:
        if producing.txn is txn:
            producing.epoch += 1
            self._end(producing, txn, "aborted")

    def completing(self, transactional_id: str) -> bool:
        """Whether markers of the latest transaction of the id are yet to be written."""
        return self._producing[transactional_id].completing > 0

    def restart(self) -> None:
        """Every connection breaks."""
        self.incarnation += 1
        for listener in list(self.restarted):
            listener()

    def _end(
        self, producing: _Producing, txn: Txn, state: Literal["committed", "aborted"], *, settles: bool = False
    ) -> None:
        """Decide, and have the markers written, each in its own time, unless the brokers forget it over a restart."""
        loop, random = asyncio.get_running_loop(), self._random
        txn.state = state
        producing.txn = None
        producing.committed_last = state == "committed"
        if txn.timer is not None:
            txn.timer.cancel()
        if state == "committed" and not settles:
            for listener in self.decided:
                listener(txn)
        steps: list[Callable[[], None]] = []
        if txn.offsets or settles:
            steps.append(lambda: self._materialise(producing, txn))
        steps += [partial(self._mark, txn, place, log) for place, log in txn.logs.items()]
        random.shuffle(steps)
        traced = state == "committed" or any(topic.endswith("-changelog") for topic, _ in txn.logs)
        if self.forgetful and traced and not settles:  # else see the second gap of `dlq_stream.runtime.settlement`
            self._forget(producing, txn, steps[: random.choice((0, 0, random.randint(0, len(steps))))])
            return
        producing.completing = len(steps)
        if random.random() < ONE_BY_ONE:
            slow = random.choice((0.004, 0.004, 0.3))
            for step in steps:
                loop.call_later(random.uniform(0.0, slow), self._complete, producing, [step])
        else:
            loop.call_later(random.uniform(0.0, 0.001), self._complete, producing, steps)

    def _forget(self, producing: _Producing, txn: Txn, done: Sequence[Callable[[], None]]) -> None:
        """The brokers fall when so many markers are written, and take the transaction for complete afterwards."""
        self.forgetful = False
        producing.hanging.append(txn)
        for step in done:
            step()
        self.restart()

    @staticmethod
    def _complete(producing: _Producing, steps: Sequence[Callable[[], None]]) -> None:
        for step in steps:
            step()
        producing.completing -= len(steps)

    def _mark(self, txn: Txn, place: Place, log: Log) -> None:
        log.mark(Entry(*place, len(log.entries), self._now_ms(), None, None, (), txn, marker=True), txn)
        self._tell(*place)

    def _materialise(self, producing: _Producing, txn: Txn) -> None:
        """The marker where offsets are kept: it ends all that the producer has pending there."""
        if txn.state == "committed":
            for each in (*producing.hanging, txn):
                for (topic, partition), offset in each.offsets.items():
                    self.offsets["workers", topic, partition] = offset
        producing.hanging.clear()

    def committed_offset(self, topic: str, partition: int) -> int:
        """Where the workers' group reads on."""
        return self.offsets.get(("workers", topic, partition), 0)

    def reset_offsets(self, positions: Iterable[tuple[Place, int]]) -> None:
        """An operator resets the workers' group, which has no member at the moment; pending offsets are older."""
        pending = [txn.offsets for producing in self._producing.values() for txn in producing.hanging]
        for (topic, partition), offset in positions:
            self.offsets["workers", topic, partition] = offset
            for offsets in pending:
                offsets.pop((topic, partition), None)
