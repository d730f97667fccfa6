"""Consumers of the source topics: they fail and succeed by seed, report it, lag, crash, and read what they had."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dlq_stream.core.commands import Succeeded, encode_command
from dlq_stream.core.headers import ATTEMPT, GROUP, MESSAGE_ID, ORIGINAL_TOPIC
from dlq_stream.core.ids import message_id
from dlq_stream.core.model import Headers, Origin
from dlq_stream.core.outgoing import Facts, failure_headers
from tests.simulation.broker import Entry, Place
from tests.simulation.names import COMMANDS, FAILURES, OVENS_RETRY, PARTITIONS, SOURCE_PARTITIONS, SOURCES, home_of
from tests.simulation.wire import Wire

if TYPE_CHECKING:
    from tests.simulation.world import World

RECORDS_AT_ONCE_MAX = 10
QUEUES = 5

Verdict = Literal["succeeds", "fails", "fails for good", "is silent"]


@dataclass(frozen=True)
class Delivery:
    """A record as an agent understands it."""

    id: bytes
    attempt: int
    origin: Origin
    own: bool


@dataclass(frozen=True, kw_only=True)
class Manners:
    """What kind of consumer group it is.

    ``outcomes``: it reports successes; ``polite``: it skips what is meant for other groups; ``hasty``: it reads what
    is not committed, and may never be.
    """

    outcomes: bool
    polite: bool
    hasty: bool = False


class Agent:
    """One consumer group; ``reported`` are the messages whose failure it was told is on the brokers."""

    def __init__(self, group: str, world: World, manners: Manners) -> None:
        self.group = group
        self.reported: set[bytes] = set()
        self.calm = False
        self._manners = manners
        self._world = world
        self._random = world.random_of(f"agent {group}")
        self._wire = Wire(group, world)
        self._positions: dict[Place, int] = {}
        self._unsettled: dict[Place, list[int]] = {}
        self._lives = 0
        self._lags_until = 0.0
        self._news = asyncio.Event()
        self._news.set()

    async def run(self) -> None:
        """Consume for ever."""
        self._world.sources.wake(self._news, range(SOURCE_PARTITIONS))
        while True:
            await self._news.wait()
            lag = max(0.0, self._lags_until - self._world.loop.time())
            await asyncio.sleep(lag + self._random.uniform(0.001, 0.3))
            found = [entry for topic in (*SOURCES, OVENS_RETRY) for entry in self._read(topic)]
            if not found:
                self._news.clear()
            for entry in found:
                self._process(entry)

    def _read(self, topic: str) -> list[Entry]:
        known = self._world.broker.topics.get(topic)
        found: list[Entry] = []
        for number, log in enumerate(known.logs if known else ()):
            place = topic, number
            start = min(self._positions.get(place, 0), len(log.entries))  # the topic may have been created anew
            if self._manners.hasty:
                records, stop = log.read_uncommitted(start, RECORDS_AT_ONCE_MAX)
            else:
                records, stop = log.read(start, RECORDS_AT_ONCE_MAX)
            self._positions[place] = stop
            found += records
        return found

    @property
    def idle(self) -> bool:
        """Whether everything was read."""
        topics = self._world.broker.topics
        return all(
            self._positions.get((name, number), 0) >= len(log.entries)
            for name in (*SOURCES, OVENS_RETRY)
            if name in topics
            for number, log in enumerate(topics[name].logs)
        )

    def be_calm(self) -> None:
        """From now on nothing goes wrong here."""
        self.calm = self._wire.calm = True
        self._lags_until = 0.0

    def lag(self, seconds: float) -> None:
        """Read nothing for a while."""
        self._lags_until = self._world.loop.time() + seconds

    def crash(self, back: int) -> None:
        """Go on from what was committed, which is before every record whose report did not get through.

        What is on its way may arrive or not.
        """
        self._lives += 1
        for place, position in self._positions.items():
            self._positions[place] = max(0, min([position - back, *self._unsettled.get(place, ())]))
        self._unsettled.clear()
        self._news.set()

    # --- one record ---------------------------------------------------------------------------------------------

    def _process(self, entry: Entry) -> None:
        delivery = self._understood(entry)
        if delivery is None:
            return
        verdict = self._verdict(delivery)
        if verdict == "succeeds":
            if self._manners.outcomes and delivery.attempt > 0 and delivery.own:
                value = encode_command(Succeeded(delivery.id, delivery.attempt))
                self._send(entry, delivery, COMMANDS, value, ())
        elif verdict != "is silent":
            headers = self._report(entry, delivery, for_good=verdict == "fails for good")
            self._send(entry, delivery, FAILURES, entry.value, headers, self._note_report(delivery))

    def _understood(self, entry: Entry) -> Delivery | None:
        """Whose delivery of what this is; None where it is somebody else's and we are polite."""
        addressed, raw_id, raw_attempt = entry.header(GROUP), entry.header(MESSAGE_ID), entry.header(ATTEMPT)
        if raw_id is None:
            origin = Origin(entry.topic, entry.partition, entry.offset, entry.timestamp)
            return Delivery(message_id(self.group, origin), 0, origin, True)
        own = addressed == self.group.encode()
        if not own and self._manners.polite:
            return None
        origin_topic = (entry.header(ORIGINAL_TOPIC) or entry.topic.encode()).decode()
        return Delivery(bytes.fromhex(raw_id.decode()), int(raw_attempt or b"0"), Origin(origin_topic), own)

    def _verdict(self, delivery: Delivery) -> Verdict:
        """Mostly the same for every delivery of the same attempt; a real consumer promises not even that."""
        fickle = self._random.random() < 0.05
        random = self._world.random_of(f"{self.group} {delivery.id.hex()} {delivery.attempt} {self._lives * fickle}")
        if not delivery.own:
            return "fails" if random.random() < 0.3 else "succeeds"
        chance = random.random()
        if delivery.attempt == 0:
            return "succeeds" if chance < 0.15 else "fails for good" if chance < 0.22 else "fails"
        if chance < 0.4:
            return "succeeds"
        return "fails" if chance < 0.8 else "fails for good" if chance < 0.9 else "is silent"

    # --- what it says -------------------------------------------------------------------------------------------

    def _report(self, entry: Entry, delivery: Delivery, *, for_good: bool) -> Headers:
        random = self._random
        facts = Facts(
            id=delivery.id,
            queue=f"{entry.topic}-{random.randrange(QUEUES)}" if random.random() < 0.1 else delivery.origin.topic,
            attempt=delivery.attempt,
            group=self.group,
            origin=delivery.origin,
            error_types=("ValidationError",) if for_good else ("TimeoutError",),
            error_message="no answer in 30 s",
            error_stacktrace=b"x" * random.choice((0, 20, 300)),
        )
        headers = failure_headers(
            entry.headers,
            facts,
            original_key=entry.key,
            outcomes_reported=self._manners.outcomes,
            retry_after_ms=random.randrange(3_000) if random.random() < 0.05 else None,
        )
        if delivery.attempt == 0 and random.random() < 0.1:  # the worker derives it
            headers = tuple(header for header in headers if header[0] != MESSAGE_ID)
        return headers

    def _note_report(self, delivery: Delivery) -> Callable[[], None]:
        """A report that returned is a promise, see `World`."""
        return lambda: self.reported.add(delivery.id) if delivery.own else None

    def _send(
        self,
        entry: Entry,
        delivery: Delivery,
        topic: str,
        value: bytes | None,
        headers: Headers,
        arrived: Callable[[], None] = lambda: None,
    ) -> None:
        """To the partition of the id, or, by a client that does not know better, to another one."""
        random, id_, life = self._random, delivery.id, self._lives
        partition = home_of(id_) if random.random() < 0.95 else random.randrange(PARTITIONS)
        source, offset = (entry.topic, entry.partition), entry.offset
        self._unsettled.setdefault(source, []).append(offset)

        def settle() -> None:
            if life == self._lives:
                self._unsettled[source] = [other for other in self._unsettled[source] if other != offset]
            arrived()

        def lost() -> bool:
            return life != self._lives and random.random() < 0.5

        self._wire.send((topic, partition), id_.hex().encode(), value, headers, arrived=settle, lost=lost)
