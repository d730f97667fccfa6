"""What goes wrong, and what people do meanwhile: one action per step, drawn by seed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dlq_stream.core.commands import Action, Order, encode_command
from dlq_stream.core.headers import ATTEMPT, MESSAGE_ID, ORIGINAL_PARTITION, ORIGINAL_TOPIC
from dlq_stream.core.ids import partition_of
from dlq_stream.core.model import Headers
from tests.simulation.broker import UNWANTED
from tests.simulation.checkers import POISON
from tests.simulation.names import APP, COMMANDS, FAILURES, OVENS_RETRY, PARTITIONS, RETENTION_MS, SOURCES
from tests.simulation.ports import EPOCH_MS
from tests.simulation.worker import Worker

if TYPE_CHECKING:
    from tests.simulation.world import World

Step = Callable[[], None]


class Chaos:
    """Draws and does one step at a time."""

    def __init__(self, world: World, weights: Mapping[str, float]) -> None:
        self._world = world
        self._random = world.random_of("chaos")
        self._produced = 0
        self._resets: list[asyncio.Task[None]] = []
        self._steps: list[tuple[Step, float]] = [
            (self.produce, 20),
            (self.order, 12),
            (self.kill, 4),
            (self.stop, 2),
            (self.freeze, 4),
            (self.move, 4),
            (self.brokers_away, 1.5),
            (self.rewind_workers, 3),
            (self.rewind_agents, 2),
            (self.replay_topics, 0.7),
            (self.lose_polls, 2),
            (self.spoil_topic, 4),
            (self.poison, 3),
            (self.step_clock, 2),
            (self.wait, 8),
        ]
        self._weights = [weights.get(step.__name__, weight) for step, weight in self._steps]

    def step(self) -> None:
        """One step."""
        steps = [step for step, _ in self._steps]
        self._random.choices(steps, self._weights)[0]()

    def _note(self, text: str) -> None:
        self._world.note("chaos", text)

    # --- what is meant to happen --------------------------------------------------------------------------------

    def produce(self) -> None:
        """New records for the agents."""
        random, broker = self._random, self._world.broker
        for _ in range(random.randint(1, 3)):
            self._produced += 1
            topic = random.choice([name for name in SOURCES if name in broker.topics] or [""])
            if not topic:
                return
            value: bytes | None = f"{topic} {self._produced} ".encode() + b"." * random.choice((0, 0, 50, 700))
            if random.random() < 0.04:
                value = UNWANTED + b" %d" % self._produced
            elif random.random() < 0.03:
                value = None
            key = None if random.random() < 0.2 else b"k%d" % random.randrange(5)
            headers: Headers = (("trace", b"%d" % self._produced), ("trace", None)) if random.random() < 0.3 else ()
            broker.produce(topic, random.randrange(len(broker.topics[topic].logs)), key, value, headers)

    def order(self) -> None:
        """An operator's command, now and then by somebody who looks at an old page."""
        random, world = self._random, self._world
        rows = [(id_, row) for fold in world.checker.folds.values() for id_, row in fold.messages.items()]
        if not rows:
            return
        id_, row = random.choice(rows)
        action = random.choice(list(Action))
        due_at = None
        if action is Action.RESCHEDULE:
            now_ms = EPOCH_MS + int(world.loop.time() * 1000)
            due_at = random.choice((0, now_ms - 20_000, now_ms + random.randint(0, 4_000)))
        revision = row.revision if random.random() < 0.85 else max(0, row.revision - 1)
        command = Order(id_, action, revision, by="somebody", due_at=due_at)
        self._note(f"orders {action} of {id_.hex()[:8]} at revision {revision}")
        partition = partition_of(id_, PARTITIONS) if random.random() < 0.9 else random.randrange(PARTITIONS)
        for _ in range(1 + (random.random() < 0.1)):
            world.broker.produce(COMMANDS, partition, id_.hex().encode(), encode_command(command))

    def wait(self) -> None:
        """Nothing happens for a while."""
        self._world.pause = self._random.uniform(0.5, 3.0)

    # --- workers ------------------------------------------------------------------------------------------------

    def _worker(self) -> Worker | None:
        alive = [worker for worker in self._world.workers if worker.alive]
        return self._random.choice(alive) if alive else None

    def kill(self) -> None:
        """kill -9 at any time."""
        worker = self._worker()
        if worker is not None and worker.process is not None:
            self._world.coverage["any time"] += 1
            worker.process.life.kill("killed")

    def stop(self) -> None:
        """SIGTERM."""
        worker = self._worker()
        if worker is not None and worker.process is not None:
            self._note(f"stops {worker.name}")
            worker.process.stop()

    def freeze(self) -> None:
        """SIGSTOP."""
        worker = self._worker()
        if worker is not None and worker.process is not None:
            worker.process.life.freeze()

    def move(self) -> None:
        """A rebalance; partitions change hands while everybody lives."""
        self._note("rebalances")
        self._world.group.rebalance()

    def step_clock(self) -> None:
        """A machine's clock is set."""
        worker = self._random.choice(self._world.workers)
        worker.clock.skew_ms = self._random.randint(-700, 700)
        self._note(f"sets the clock of {worker.name} to {worker.clock.skew_ms:+d} ms")

    # --- brokers ------------------------------------------------------------------------------------------------

    def brokers_away(self) -> None:
        """No request and no answer comes through."""
        seconds = self._random.choice((0.2, 2.0, 7.0))
        self._note(f"brokers are away for {seconds} s")
        self._world.away_until = self._world.loop.time() + seconds

    def spoil_topic(self) -> None:
        """A destination becomes unusable for a while."""
        random, broker = self._random, self._world.broker
        name = random.choice((*SOURCES, OVENS_RETRY, *(f"{source}-dlq" for source in SOURCES)))
        topic = broker.topics.get(name)
        if topic is None:
            return
        seconds = random.uniform(1.0, 15.0)
        how = random.choice(("not writable", "small", "compacted", "deleted", "silent"))
        self._note(f"{name} is {how} for {seconds:.1f} s")
        if how == "not writable":
            topic.writable = False
        elif how == "small":
            topic.bytes_max = 600
        elif how == "silent":
            topic.silent = True
        elif how == "compacted":
            topic.compacted = not name.endswith("-dlq")
        else:
            broker.delete(name)
        self._world.loop.call_later(seconds, self._world.restore_topic, name)

    # --- deliveries ---------------------------------------------------------------------------------------------

    def rewind_workers(self) -> None:
        """What was delivered is delivered again."""
        worker = self._worker()
        if worker is not None and worker.process is not None:
            back = self._random.choice((1, 5, 1_000_000))
            self._note(f"delivers the last {back} to {worker.name} again")
            worker.process.rewind(back)

    def rewind_agents(self) -> None:
        """An agent crashes before it committed what it had read."""
        agent = self._random.choice(self._world.agents)
        back = self._random.randint(1, 5)
        self._note(f"agent {agent.group} reads {back} again")
        agent.rewind(back)
        self._world.sources.news()

    def lose_polls(self) -> None:
        """For a while deliveries get lost, or come twice."""
        world = self._world
        world.lost_polls, world.repeated_polls = self._random.uniform(0.2, 0.8), self._random.uniform(0.0, 0.3)

        def heal() -> None:
            world.lost_polls = world.repeated_polls = 0.0

        world.loop.call_later(self._random.uniform(0.5, 4.0), heal)

    def replay_topics(self) -> None:
        """An operator stops all workers and resets the group to the beginning of what the topics still hold."""
        topic = self._random.choice((FAILURES, COMMANDS))
        if not self._world.resetting.locked():
            self._resets.append(asyncio.ensure_future(self._world.reset_offsets(topic)))

    def oldest_retained(self, topic: str, partition: int) -> int:
        """The topics are kept for less time than closed messages, half of it."""
        kept_since = EPOCH_MS + int(self._world.loop.time() * 1000) - RETENTION_MS // 2
        entries = self._world.broker.log(topic, partition).entries
        return next((entry.offset for entry in entries if entry.timestamp >= kept_since), len(entries))

    # --- hostility ----------------------------------------------------------------------------------------------

    def poison(self) -> None:
        """Events that nobody can understand, or that want what is forbidden."""
        random = self._random
        poison = (POISON, b"1")
        events: list[tuple[str, bytes | None, Headers]] = [
            (FAILURES, b"\xff\xfe", (poison,)),
            (FAILURES, b"x", (poison, (ORIGINAL_TOPIC, b"\xff"))),
            (FAILURES, b"x", (poison, (ORIGINAL_TOPIC, b"heat"), (ORIGINAL_PARTITION, b"1"))),
            (FAILURES, b"x", (poison, (ORIGINAL_TOPIC, b"heat"), (ATTEMPT, b"many"))),
            (FAILURES, b"x", (poison, (ORIGINAL_TOPIC, b"heat"), (MESSAGE_ID, b"7"))),
            (FAILURES, b"x", (poison, (ORIGINAL_TOPIC, f"{APP}-failures".encode()))),
            (FAILURES, b"x", (poison, (ORIGINAL_TOPIC, b"__consumer_offsets"))),
            (FAILURES, b"x", (poison, ("\udcff", b"\xff"))),
            (COMMANDS, None, (poison,)),
            (COMMANDS, b'{"type": "explode"}', (poison,)),
            (COMMANDS, b"[" * 50_000, (poison,)),
        ]
        topic, value, headers = random.choice(events)
        self._world.broker.produce(topic, random.randrange(PARTITIONS), b"key", value, headers)
