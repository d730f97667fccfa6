"""What goes wrong, and what people do meanwhile: one action per step, drawn by seed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlq_stream.core.model import Headers
from tests.simulation.broker import UNWANTED
from tests.simulation.clients import Clients
from tests.simulation.names import COMMANDS, FAILURES, OUTCOME_TIMEOUT_SECONDS_MAX, OVENS_RETRY, PUBLISHED, SOURCES
from tests.simulation.worker import Worker

if TYPE_CHECKING:
    from tests.simulation.world import World

Step = Callable[[], None]
Reset = Callable[[Sequence[str]], Coroutine[Any, Any, None]]

LARGE_CLOCK_STEP_MS = 90_000
"""More than retention, a session, a transaction or any backoff."""


class Chaos:
    """Draws and does one step at a time."""

    def __init__(self, world: World, reset_offsets: Reset, weights: Mapping[str, float]) -> None:
        self._world = world
        self._reset_offsets = reset_offsets
        self._random = world.random_of("chaos")
        self._produced = 0
        self._resets: list[asyncio.Task[None]] = []
        clients = Clients(world, self._random)
        steps: list[tuple[Step, float]] = [
            (self.produce, 3),
            (clients.order, 9),
            (clients.send_again, 2),
            (clients.miscount, 2),
            (clients.poison, 2),
            (self.wait, 6),
            (self.kill, 2),
            (self.stop, 1),
            (self.freeze, 2),
            (self.move, 2),
            (self.set_clock, 2),
            (self.set_clock_far, 0.5 if world.wild_clocks else 0),
            (self.brokers_away, 1),
            (self.slow_brokers, 1),
            (self.restart_brokers, 0.5),
            (self.forgetful_brokers, 0.5),
            (self.spoil_topic, 3),
            (self.rewind_workers, 2),
            (self.lose_polls, 2),
            (self.crash_agent, 2),
            (self.lag, 1),
            (self.replay_topics, 0.4),
            (self.publish, 0.5),
        ]
        self._steps = [step for step, _ in steps]
        self._weights = [weights.get(step.__name__, weight) for step, weight in steps]

    def step(self) -> None:
        """One step."""
        self._random.choices(self._steps, self._weights)[0]()

    def _note(self, text: str) -> None:
        self._world.note("chaos", text)

    # --- what is meant to happen --------------------------------------------------------------------------------

    def produce(self) -> None:
        """New records for the agents."""
        random, broker = self._random, self._world.broker
        for _ in range(random.randint(1, 2)):
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
            self._world.outcome.points["any time"] += 1
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

    def set_clock(self) -> None:
        """A machine's clock is set, by little."""
        self._set_clock(self._random.randint(-700, 700))

    def set_clock_far(self) -> None:
        """A machine's clock is set to a quite different time, or back to the right one."""
        far = self._random.randint(10_000, LARGE_CLOCK_STEP_MS)
        self._set_clock(self._random.choice((far, -far, 0)))

    def _set_clock(self, skew_ms: int) -> None:
        worker = self._random.choice(self._world.workers)
        step_ms = skew_ms - worker.clock.skew_ms
        worker.clock.skew_ms = skew_ms
        self._note(f"sets the clock of {worker.name} to {skew_ms:+d} ms")
        if abs(step_ms) > 5_000:
            self._world.count(f"clocks set {'forward' if step_ms > 0 else 'back'} by a lot")

    # --- brokers ------------------------------------------------------------------------------------------------

    def brokers_away(self) -> None:
        """No request and no answer comes through."""
        seconds = self._random.choice((0.2, 2.0, 7.0))
        self._note(f"brokers are away for {seconds} s")
        self._world.away_until = self._world.loop.time() + seconds

    def restart_brokers(self) -> None:
        """All of them fall, and come back with everything that they knew."""
        self._world.count("brokers restarted")
        self._note("brokers are restarted")
        self._world.broker.restart()
        self._world.away_until = self._world.loop.time() + self._random.choice((0.2, 2.0))

    def forgetful_brokers(self) -> None:
        """They fall as soon as they have decided a transaction, and come back without a mind to end it."""
        self._note("brokers are going to fall and to forget")
        self._world.broker.forgetful = True

    def slow_brokers(self) -> None:
        """Many requests take long, some longer than anybody waits."""
        seconds = self._random.uniform(2.0, 8.0)
        self._note(f"brokers are slow for {seconds:.1f} s")
        self._world.slowness = self._random.uniform(0.1, 0.6)
        self._world.loop.call_later(seconds, self._world.heal_brokers)

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
            worker.process.consumer.rewind(back)

    def lose_polls(self) -> None:
        """For a while deliveries get lost, or come twice."""
        world = self._world
        world.lost_polls, world.repeated_polls = self._random.uniform(0.2, 0.8), self._random.uniform(0.0, 0.3)

        def heal() -> None:
            world.lost_polls = world.repeated_polls = 0.0

        world.loop.call_later(self._random.uniform(0.5, 4.0), heal)

    def crash_agent(self) -> None:
        """An agent dies before it has committed what it had read."""
        agent = self._random.choice(self._world.agents)
        back = self._random.randint(0, 5)
        self._note(f"agent {agent.group} crashes, and reads {back} again")
        agent.crash(back)

    def lag(self) -> None:
        """An agent reads nothing for longer than its outcomes are waited for, or for less."""
        agent = self._random.choice(self._world.agents)
        seconds = self._random.choice((2.0, 8.0, 20.0))
        self._note(f"agent {agent.group} lags for {seconds} s")
        if seconds > OUTCOME_TIMEOUT_SECONDS_MAX:
            self._world.count("agents lagging for longer than outcomes are waited for")
        agent.lag(seconds)

    def publish(self) -> None:
        """An operator publishes other policies."""
        number = self._random.randrange(len(PUBLISHED))
        self._note(f"policies number {number} are published")
        self._world.publish(PUBLISHED[number])

    def replay_topics(self) -> None:
        """An operator stops all workers and resets the group to the beginning of what the topics still hold."""
        topics = self._random.choice(((FAILURES,), (COMMANDS,), (FAILURES, COMMANDS)))
        if not self._world.resetting.locked():
            self._resets.append(asyncio.ensure_future(self._reset_offsets(topics)))
