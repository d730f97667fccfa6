"""What is to happen to every message of a crash test, written down before it begins: the truth that the end is held to.

A story is made from a seed.  Each message has a fate (it succeeds at the first retry, fails until it is given up, is
purged, ...), and from the fates follows everything: which retries and dead letters there must be, how long each has to
wait, what the rows look like at the end, and every figure of the statistics.

The story speaks the wire contract by itself and asks nothing of the code under test but the names of its figures.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from aiokafka.partitioner import murmur2

from dlq_stream.core.model import DLQMessageStatus as Status
from dlq_stream.tables.stats import PARTITION_QUEUE, Stats

PARTITIONS = 4
QUEUES = ("furnace", "boiler")
GROUP = "heat-agents"

MAX_RETRIES = 2
INITIAL_BACKOFF_MS = 500
BACKOFF_MULTIPLIER = 2
"""The workers' policy; where a failure event asks for nothing, this says how long its retry waits."""

ASKED_MS = (500, 3_000)
"""Bounds of the waits that failure events ask for."""

NEVER_MS = 3_600_000
"""The wait of messages that are still pending at the end."""

ASKING = 0.7
MISPLACED = 0.05
REPEATED = 0.05
POISONED = 0.02
"""Shares: of failures that ask for a wait of their own, of events sent to a wrong partition, of events sent twice, and
how many events there are beside them that nobody can understand."""


class Outcome(StrEnum):
    """What becomes of one delivery."""

    FAILS = "fails"
    HOPELESS = "fails for good"
    SUCCEEDS = "succeeds"
    SILENT = "is never heard of"


class Order(StrEnum):
    """What an operator wants done with a message as soon as its dead letter is seen."""

    PURGE = "purge"
    REDRIVE = "redrive"


@dataclass(frozen=True, slots=True)
class Fate:
    """The outcomes of delivery 0 (which always fails), 1, 2...; where that leads; how many of a hundred have it."""

    outcomes: tuple[Outcome, ...]
    status: Status
    share: int
    order: Order | None = None


FAILS, HOPELESS, SUCCEEDS, SILENT = Outcome
FATES = {
    "succeeds": Fate((FAILS, SUCCEEDS), Status.RESOLVED, 38),
    "succeeds late": Fate((FAILS, FAILS, SUCCEEDS), Status.RESOLVED, 20),
    "exhausted": Fate((FAILS, FAILS, FAILS), Status.ESCALATED, 10),
    "silent": Fate((FAILS, SILENT), Status.RETRYING, 10),
    "permanent": Fate((HOPELESS,), Status.ESCALATED, 8),
    "purged": Fate((HOPELESS,), Status.PURGED, 5, Order.PURGE),
    "redriven": Fate((HOPELESS, SUCCEEDS), Status.RESOLVED, 5, Order.REDRIVE),
    "pending": Fate((FAILS,), Status.PENDING, 4),
}


class Delivery(NamedTuple):
    """One delivery of one message; the id as 32 hex digits."""

    id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message: the record that failed first, and its fate.

    ``waits_ms`` is what the failure of each delivery asks for; None leaves it to the policy.  ``misplaced`` and
    ``repeated`` are about the report of the first failure.
    """

    number: int
    id: str
    fate: Fate
    queue: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    waits_ms: tuple[int | None, ...]
    misplaced: bool = False
    repeated: bool = False

    @property
    def home(self) -> int:
        """The partition it belongs to: what Kafka's default partitioner makes of its id."""
        hashed: int = murmur2(self.id.encode())
        return (hashed & 0x7FFFFFFF) % PARTITIONS

    @property
    def sent_to(self) -> int:
        """The partition that its first failure is reported on."""
        return (self.home + 1) % PARTITIONS if self.misplaced else self.home

    @property
    def source_partition(self) -> int:
        """The partition of the source topic that it came from, and where its retries have to go."""
        return self.number % PARTITIONS

    @property
    def failures(self) -> list[int]:
        """The numbers of the deliveries that fail."""
        return [number for number, each in enumerate(self.fate.outcomes) if each in (FAILS, HOPELESS)]

    @property
    def retries(self) -> int:
        """How often it is emitted."""
        return len(self.fate.outcomes) - 1

    @property
    def has_dead_letter(self) -> bool:
        """Whether it is given up at some time."""
        return HOPELESS in self.fate.outcomes or self.failures[-1] == MAX_RETRIES

    @property
    def revision(self) -> int:
        """The revision of its row at the end: one for each transition."""
        transitions = self.retries + sum(each is not SILENT for each in self.fate.outcomes)
        return transitions + (self.fate.order is Order.REDRIVE)

    def wait_ms(self, attempt: int) -> int:
        """How long the retry after delivery ``attempt`` has to wait, from its failure (or from the redrive) on."""
        if self.fate.outcomes[attempt] is HOPELESS:
            return 0
        asked = self.waits_ms[attempt]
        return INITIAL_BACKOFF_MS * BACKOFF_MULTIPLIER**attempt if asked is None else asked


@dataclass(frozen=True, slots=True)
class Story:
    """All messages in the order of their numbers, and the poison that is sent in between.

    The last ``waiting`` of them fail before all others, and stay pending to the end.
    """

    seed: int
    messages: tuple[Message, ...]
    poison: tuple[bytes, ...]
    waiting: int = 0

    def beforehand(self) -> tuple[Message, ...]:
        """Those that wait from the beginning to the end."""
        return self.messages[len(self.messages) - self.waiting :]

    def in_turn(self) -> tuple[Message, ...]:
        """All others, in the order in which they fail first."""
        return self.messages[: len(self.messages) - self.waiting]

    def by_id(self) -> dict[str, Message]:
        """The messages by id."""
        return {message.id: message for message in self.messages}

    def retries(self) -> Iterator[Delivery]:
        """Every retry there must be, once."""
        for message in self.messages:
            for attempt in range(1, message.retries + 1):
                yield Delivery(message.id, attempt)

    def dead_letters(self) -> Iterator[str]:
        """The id of every message that must have a dead letter, one each."""
        return (message.id for message in self.messages if message.has_dead_letter)

    def poison_partition(self, number: int) -> int:
        """The partition to which a piece of poison is sent."""
        return number % PARTITIONS

    def figures(self) -> dict[tuple[str, int], Stats]:
        """The statistics at the end, by queue and partition, without instants."""
        rows: dict[tuple[str, int], Counter[str]] = {}
        repeats: Counter[tuple[str, int]] = Counter()
        for message in self.messages:
            row = rows.setdefault((message.queue, message.home), Counter())
            row.update(_figures_of(message))
            repeats[message.queue, message.home] += message.repeated
            if message.misplaced:
                own = rows.setdefault((PARTITION_QUEUE, message.sent_to), Counter())
                own["forwarded"] += 1 + message.repeated
        for number in range(len(self.poison)):
            rows.setdefault((PARTITION_QUEUE, self.poison_partition(number)), Counter())["quarantined"] += 1
        return {
            place: Stats(**row, ignored={"duplicate": repeats[place]} if repeats[place] else {})
            for place, row in rows.items()
        }


def _figures_of(message: Message) -> Counter[str]:
    """What one message adds to the figures of its queue."""
    outcomes, status = message.fate.outcomes, message.fate.status
    return Counter(
        {
            **({"purged": 1} if status is Status.PURGED else {status.value: 1}),
            "failures": len(message.failures),
            "retries": message.retries,
            "succeeded": outcomes.count(SUCCEEDS),
            "escalated_total": int(message.has_dead_letter),
            "redriven": int(message.fate.order is Order.REDRIVE),
        }
    )


def story(seed: int, count: int, waiting: int = 0) -> Story:
    """The story of ``count`` messages, and of so many more that wait all the time, which change nothing of theirs."""
    rng = random.Random(seed)
    fates = rng.choices(list(FATES.values()), [fate.share for fate in FATES.values()], k=count)
    messages = tuple(_message(rng, number, fate) for number, fate in enumerate(fates))
    beside = (_message(rng, number, FATES["pending"]) for number in range(count, count + waiting))
    poison = tuple(b"poison %d of %d" % (number, seed) for number in range(int(count * POISONED)))
    at_home = (replace(message, misplaced=False, repeated=False) for message in beside)
    return Story(seed, (*messages, *at_home), poison, waiting)


def _message(rng: random.Random, number: int, fate: Fate) -> Message:
    waits = tuple(rng.randint(*ASKED_MS) if rng.random() < ASKING else None for _ in fate.outcomes)
    if fate.status is Status.PENDING:
        waits = (NEVER_MS,)
    reading = {"reading": number, "celsius": round(rng.uniform(20, 1200), 3), "note": rng.randbytes(60).hex()}
    message = Message(
        number=number,
        id=rng.randbytes(16).hex(),
        fate=fate,
        queue=rng.choice(QUEUES),
        key=rng.choice((None, b"", b"furnace-%d" % (number % 50), rng.randbytes(8))),
        value=None if rng.random() < 0.02 else json.dumps(reading).encode(),
        headers=(("trace", rng.randbytes(8)), ("hop", b"1"), ("hop", None), ("hop", b"%d" % number)),
        waits_ms=waits,
        misplaced=rng.random() < MISPLACED,
    )
    # Once it is purged, a repeated report would be a new message.
    return replace(message, repeated=rng.random() < REPEATED and fate.status is not Status.PURGED)
