"""Operators and clients of all kinds: what they order, repeat, miscount, and what nobody understands."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from dlq_stream.core.commands import Action, Order, Succeeded, encode_command
from dlq_stream.core.outgoing import Facts, failure_headers
from dlq_stream.tables.messages import Message
from tests.simulation.hostility import poison
from tests.simulation.names import COMMANDS, FAILURES, PARTITIONS, home_of
from tests.simulation.wire import Wire

if TYPE_CHECKING:
    from tests.simulation.world import World


class Clients:
    """Steps of `tests.simulation.chaos` that send something to the intake topics."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        self._wire = Wire("clients", world)

    def _row(self) -> tuple[bytes, Message] | None:
        """A message, or one that is gone."""
        random, checker = self._random, self._world.checker
        fold = checker.folds[random.randrange(PARTITIONS)]
        rows = fold.purged if fold.purged and random.random() < 0.05 else fold.messages
        if not rows:
            return None
        id_ = random.choice(list(rows))
        return id_, rows[id_]

    def order(self) -> None:
        """An operator's command, now and then by somebody who looks at an old page."""
        random, world = self._random, self._world
        chosen = self._row()
        if chosen is None:
            return
        id_, row = chosen
        action = random.choice(list(Action))
        due_at = None
        if action is Action.RESCHEDULE:
            now_ms = world.now_ms()
            due_at = random.choice((0, now_ms - 20_000, now_ms + random.randint(0, 4_000)))
        revision = row.revision if random.random() < 0.85 else max(0, row.revision - 1)
        command = Order(id_, action, revision, by="somebody", due_at=due_at)
        world.note("chaos", f"orders {action} of {id_.hex()[:8]} at revision {revision}")
        partition = home_of(id_) if random.random() < 0.9 else random.randrange(PARTITIONS)
        for _ in range(1 + (random.random() < 0.1)):
            self._wire.send((COMMANDS, partition), id_.hex().encode(), encode_command(command))

    def miscount(self) -> None:
        """A client tells of a delivery that was never made, or long ago."""
        random = self._random
        chosen = self._row()
        if chosen is None:
            return
        id_, row = chosen
        attempt = max(0, row.attempt + random.choice((-1, 1, 2)))
        self._world.note("chaos", f"tells of delivery {attempt} of {id_.hex()[:8]}")
        key, partition = id_.hex().encode(), home_of(id_)
        if random.random() < 0.5:
            self._wire.send((COMMANDS, partition), key, encode_command(Succeeded(id_, attempt)))
        else:
            facts = Facts(id=id_, queue=row.queue, attempt=attempt, group=row.group, origin=row.origin)
            headers = failure_headers((), facts, original_key=None, outcomes_reported=row.outcomes_reported)
            self._wire.send((FAILURES, partition), key, b"miscounted", headers)

    def send_again(self) -> None:
        """A client that starts again sends what its spool holds, though all of it had arrived."""
        random, broker = self._random, self._world.broker
        place = random.choice((FAILURES, COMMANDS)), random.randrange(PARTITIONS)
        entries = broker.log(*place).entries
        if not entries:
            return
        first = random.randrange(len(entries))
        found = [entry for entry in entries[first : first + random.randint(1, 6)] if entry.txn is None]
        if random.random() < 0.5:
            found.reverse()
        self._world.note("chaos", f"sends {len(found)} records of {place[0]}-{place[1]} again")
        for entry in found:
            self._world.outcome.figures["records sent again"] += 1
            broker.produce(*place, entry.key, entry.value, entry.headers)

    def poison(self) -> None:
        """Events that nobody can understand, or that want what is forbidden."""
        topic, value, headers = poison(self._random)
        self._world.broker.produce(topic, self._random.randrange(PARTITIONS), b"key", value, headers)
