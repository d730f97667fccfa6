"""A worker's consumer: what Faust and aiokafka are to the partitions, with all that gets lost and comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Protocol

from dlq_stream.runtime.owner import Poll
from dlq_stream.runtime.ports import Run
from tests.simulation.broker import Place
from tests.simulation.life import Life, NoAnswer
from tests.simulation.names import COMMANDS, FAILURES

if TYPE_CHECKING:
    from tests.simulation.world import World

INPUTS = (FAILURES, COMMANDS)
POLLS_QUEUED_MAX = 2
RECORDS_PER_FETCH_MAX = 40
ROOM_SECONDS = 0.05


class Room(Protocol):
    """Where there is room for more input; the owner of the partitions knows."""

    def full(self, topic: str, number: int) -> bool: ...

    async def room(self, seconds: float) -> None: ...


class SimConsumer:
    """Reads what is committed, whole polls at a time, into one queue for each agent."""

    def __init__(self, life: Life, world: World, room: Room) -> None:
        self.queues: dict[str, asyncio.Queue[Poll]] = {topic: asyncio.Queue(POLLS_QUEUED_MAX) for topic in INPUTS}
        self._life = life
        self._world = world
        self._room = room
        self._positions: dict[Place, int] = {}
        self._news = asyncio.Event()

    async def committed(self, numbers: tuple[int, ...]) -> Mapping[Place, int]:
        """Where the group reads on, in these partitions of each topic."""
        broker = self._world.broker
        places = [(topic, number) for topic in INPUTS for number in numbers]
        while True:
            try:
                return await self._life.request(
                    "read offsets", lambda: {place: broker.committed_offset(*place) for place in places}
                )
            except NoAnswer:
                continue

    def begin(self, positions: Mapping[Place, int]) -> None:
        """Deliver from here on; what was fetched before comes through yet, now and then."""
        if self._life.random.random() < 0.7:
            for queue in self.queues.values():
                while not queue.empty():
                    queue.get_nowait()
        self._positions = dict(positions)
        self._listen()

    def end(self) -> None:
        """Nothing is assigned any more."""
        self._positions.clear()
        self._listen()

    def _listen(self) -> None:
        self._world.inputs.wake(self._news, {number for _, number in self._positions})
        self._news.set()

    async def seek(self, topic: str, number: int, position: int) -> None:
        """Read on from elsewhere."""
        if (topic, number) in self._positions:
            self._positions[topic, number] = position
            self._news.set()

    def rewind(self, back: int) -> None:
        """Deliver again what was delivered before."""
        for place, position in self._positions.items():
            self._positions[place] = max(0, position - back)
        self._news.set()

    # --- fetching -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Fetch until the process dies."""
        world, random = self._world, self._life.random
        while True:
            await self._news.wait()
            await asyncio.sleep(random.uniform(0.0, 0.2))
            await self._life.awake()
            full = {place for place in self._positions if self._room.full(*place)}
            polls = [poll for topic in INPUTS if (poll := self._poll(topic, full)).runs]
            if full:
                self._world.count("input held back")
            if not polls and full:
                await self._room.room(ROOM_SECONDS)
            elif not polls:
                self._news.clear()
            for poll in polls:
                if random.random() < world.lost_polls and self._more_follows(poll):
                    world.note(self._life.name, f"a poll of {poll.topic} is lost")
                    continue
                for _ in range(1 + (random.random() < world.repeated_polls)):
                    await self.queues[poll.topic].put(poll)

    def _poll(self, topic: str, full: Collection[Place]) -> Poll:
        runs: dict[int, Run] = {}
        for (name, number), start in self._positions.items():
            if name == topic and (name, number) not in full:
                log = self._world.broker.log(topic, number)
                records, stop = log.read(start, self._life.random.randint(1, RECORDS_PER_FETCH_MAX))
                if stop > start:
                    self._positions[name, number] = stop
                    runs[number] = Run(start, stop, records)
        return Poll(topic, runs)

    def _more_follows(self, poll: Poll) -> bool:
        """A run that is lost is missed when the next one comes."""
        logs = {number: self._world.broker.log(poll.topic, number) for number in poll.runs}
        return all(logs[number].read(run.stop, 1)[0] for number, run in poll.runs.items())
