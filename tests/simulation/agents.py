"""Consumers of the source topics: they fail and succeed by seed, report it, crash, and read again what they read."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dlq_stream.core.commands import Succeeded, encode_command
from dlq_stream.core.headers import ATTEMPT, GROUP, MESSAGE_ID, ORIGINAL_TOPIC
from dlq_stream.core.ids import message_id, partition_of
from dlq_stream.core.model import Headers, Origin
from dlq_stream.core.outgoing import Facts, failure_headers
from dlq_stream.topics.names import AppTopics
from tests.simulation.broker import Entry, Place
from tests.simulation.names import APP, OVENS_RETRY, PARTITIONS, SOURCES

if TYPE_CHECKING:
    from tests.simulation.world import World

TOPICS = AppTopics(APP)
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


class Agent:
    """One consumer group.  ``outcomes``: it reports successes; ``polite``: it skips what is meant for other groups."""

    def __init__(self, group: str, world: World, *, outcomes: bool, polite: bool) -> None:
        self.group = group
        self.positions: dict[Place, int] = {}
        self.calm = False
        self._world = world
        self._outcomes = outcomes
        self._polite = polite
        self._random = world.random_of(f"agent {group}")

    async def run(self) -> None:
        """Consume for ever."""
        world = self._world
        while True:
            version = world.sources.version
            found = [entry for topic in (*SOURCES, OVENS_RETRY) for entry in self._read(topic)]
            for entry in found:
                self._process(entry)
            if not found:
                await world.sources.beyond(version)
            await asyncio.sleep(self._random.uniform(0.001, 0.05))

    def _read(self, topic: str) -> list[Entry]:
        known = self._world.broker.topics.get(topic)
        found: list[Entry] = []
        for number, log in enumerate(known.logs if known else ()):
            place = topic, number
            start = min(self.positions.get(place, 0), len(log.entries))  # the topic may have been created anew
            records, self.positions[place] = log.read(start, RECORDS_AT_ONCE_MAX)
            found += records
        return found

    @property
    def idle(self) -> bool:
        """Whether everything was read."""
        topics = self._world.broker.topics
        return all(
            self.positions.get((name, number), 0) >= len(log.entries)
            for name in (*SOURCES, OVENS_RETRY)
            if name in topics
            for number, log in enumerate(topics[name].logs)
        )

    def rewind(self, back: int) -> None:
        """A crash: what was not committed is read again."""
        for place, position in self.positions.items():
            self.positions[place] = max(0, position - back)

    # --- one record ---------------------------------------------------------------------------------------------

    def _process(self, entry: Entry) -> None:
        delivery = self._understood(entry)
        if delivery is None:
            return
        verdict = self._verdict(delivery)
        if verdict == "succeeds":
            if self._outcomes and delivery.attempt > 0 and delivery.own:
                self._later(lambda: self._succeeded(delivery))
        elif verdict != "is silent":
            again = self._random.random() < 0.1 and not self.calm
            for _ in range(1 + again):
                self._later(lambda: self._report(entry, delivery, for_good=verdict == "fails for good"))

    def _understood(self, entry: Entry) -> Delivery | None:
        """Whose delivery of what this is; None where it is somebody else's and we are polite."""
        addressed, raw_id, raw_attempt = entry.header(GROUP), entry.header(MESSAGE_ID), entry.header(ATTEMPT)
        if raw_id is None:
            origin = Origin(entry.topic, entry.partition, entry.offset, entry.timestamp)
            return Delivery(message_id(self.group, origin), 0, origin, True)
        own = addressed == self.group.encode()
        if not own and self._polite:
            return None
        origin_topic = (entry.header(ORIGINAL_TOPIC) or entry.topic.encode()).decode()
        return Delivery(bytes.fromhex(raw_id.decode()), int(raw_attempt or b"0"), Origin(origin_topic), own)

    def _verdict(self, delivery: Delivery) -> Verdict:
        """The same for every delivery of the same attempt, as for a real consumer it would not even have to be."""
        random = self._world.random_of(f"{self.group} {delivery.id.hex()} {delivery.attempt}")
        if not delivery.own:
            return "fails" if random.random() < 0.3 else "succeeds"
        chance = random.random()
        if delivery.attempt == 0:
            return "succeeds" if chance < 0.15 else "fails for good" if chance < 0.22 else "fails"
        if chance < 0.45:
            return "succeeds"
        return "fails" if chance < 0.85 else "fails for good" if chance < 0.9 else "is silent"

    def _later(self, send: object) -> None:
        """Processing takes its time, and now and then longer than anybody waits for an outcome."""
        slow = self._random.random() < 0.03 and not self.calm
        delay = self._random.uniform(4.0, 12.0) if slow else self._random.uniform(0.001, 0.3)
        self._world.under_way += 1
        self._world.loop.call_later(delay, self._send, send)

    def _send(self, send: object) -> None:
        self._world.under_way -= 1
        send()  # type: ignore[operator]

    # --- what it says -------------------------------------------------------------------------------------------

    def _report(self, entry: Entry, delivery: Delivery, *, for_good: bool) -> None:
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
        headers = failure_headers(entry.headers, facts, original_key=entry.key, outcomes_reported=self._outcomes)
        if delivery.attempt == 0 and random.random() < 0.1:  # the worker derives it
            headers = tuple(header for header in headers if header[0] != MESSAGE_ID)
        self._write(TOPICS.failures, delivery.id, entry.value, headers)

    def _succeeded(self, delivery: Delivery) -> None:
        self._write(TOPICS.commands, delivery.id, encode_command(Succeeded(delivery.id, delivery.attempt)), ())

    def _write(self, topic: str, id_: bytes, value: bytes | None, headers: Headers) -> None:
        """To the partition of the id, or, by a client that does not know better, to another one."""
        partition = partition_of(id_, PARTITIONS)
        if self._random.random() < 0.05:
            partition = self._random.randrange(PARTITIONS)
        self._world.broker.produce(topic, partition, id_.hex().encode(), value, headers)
