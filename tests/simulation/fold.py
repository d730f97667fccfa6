"""What was committed for one partition, as a fresh rebuild from its changelogs gives it, and a transaction's parts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from dlq_stream.core.headers import MESSAGE_ID, QUARANTINE_OFFSET, QUARANTINE_TOPIC
from dlq_stream.tables import INDEXES, TABLES, attempts, messages
from dlq_stream.tables.messages import Message
from tests.simulation.broker import Entry, Txn
from tests.simulation.figures import Truth
from tests.simulation.names import APP, QUARANTINE, TOPICS

TABLE_OF = {spec.changelog(APP): spec for spec in TABLES}
_INDEX_TAGS = {spec.name: spec.tag for spec in INDEXES}


@dataclass
class Change:
    """What a transaction did to one message."""

    id: bytes
    old: Message | None
    new: Message | None

    @property
    def grown(self) -> int:
        """How many deliveries were made."""
        return 0 if self.old is None or self.new is None else self.new.attempt - self.old.attempt


@dataclass
class Fold:
    """What a fresh rebuild from the changelogs of one partition gives, and what else was committed for it.

    ``purged`` holds the last row of messages that are gone, ``lives`` how often each message is gone, ``kept`` how
    many attempts of it there are.  ``consumed`` is
    the position of each intake topic, ``known`` the highest that it ever was.  ``unsure`` are messages of which
    something was told that is not remembered: a replay may tell news of them.  ``timed_out`` are deliveries whose
    outcome was not waited for any longer.
    """

    rows: dict[str, dict[bytes, bytes]] = field(default_factory=lambda: {spec.name: {} for spec in TABLES})
    messages: dict[bytes, Message] = field(default_factory=dict)
    purged: dict[bytes, Message] = field(default_factory=dict)
    lives: Counter[bytes] = field(default_factory=Counter)
    kept: Counter[bytes] = field(default_factory=Counter)
    unsure: set[bytes] = field(default_factory=set)
    timed_out: set[tuple[bytes, int]] = field(default_factory=set)
    consumed: dict[str, int] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    truth: Truth = field(default_factory=Truth)

    def apply(self, written: list[Entry]) -> dict[bytes, Change]:
        """Take in changelog records; returns what became of messages."""
        changes: dict[bytes, Change] = {}
        for entry in written:
            table, key = TABLE_OF[entry.topic].name, entry.key or b""
            rows = self.rows[table]
            if table == "attempts":
                self.kept[attempts.split_key(key)[0]] += (entry.value is not None) - (key in rows)
            if entry.value is None:
                rows.pop(key, None)
            else:
                rows[key] = entry.value
            if table == "messages":
                new = None if entry.value is None else messages.codec.decode(entry.value)
                change = changes.setdefault(key, Change(key, self.messages.get(key), new))
                change.new = new
                self._change(key, new)
        return changes

    def _change(self, id_: bytes, new: Message | None) -> None:
        if new is not None:
            self.messages[id_] = new
        elif id_ in self.messages:
            self.purged[id_] = self.messages.pop(id_)
            self.lives[id_] += 1

    def entries(self) -> dict[bytes, bytes]:
        """The whole store: rows and the index entries derived from them."""
        found: dict[bytes, bytes] = {}
        for spec in TABLES:
            for key, value in self.rows[spec.name].items():
                found[spec.tag + key] = value
                if spec.derive is not None:
                    for index, entry in spec.derive(key, None, value)[1]:
                        found[_INDEX_TAGS[index] + entry] = b""
        return found


class Parts:
    """The records of a transaction by what they are."""

    def __init__(self, txn: Txn) -> None:
        self.rows: list[Entry] = []
        self.emissions: list[Entry] = []
        self.dead_letters: list[Entry] = []
        self.quarantined: dict[tuple[str, int], Entry] = {}
        self.forwarded: list[bytes] = []
        for entry in txn.entries:
            if entry.topic in TABLE_OF:
                self.rows.append(entry)
            elif entry.topic == QUARANTINE:
                topic, offset = entry.header(QUARANTINE_TOPIC) or b"", entry.header(QUARANTINE_OFFSET) or b"-1"
                self.quarantined[topic.decode(), int(offset)] = entry
            elif entry.topic in TOPICS.all:
                self.forwarded.append(id_of(entry))
            elif entry.topic.endswith("-dlq"):
                self.dead_letters.append(entry)
            else:
                self.emissions.append(entry)


def id_of(entry: Entry) -> bytes:
    """The message that a record of ours is about."""
    return bytes.fromhex((entry.header(MESSAGE_ID) or b"").decode())
