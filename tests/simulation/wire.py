"""The way from clients to the brokers: what they send arrives late, in another order, twice, or once brokers are back.

A producer repeats what was not acknowledged; with several requests in flight, later records overtake earlier ones; a
client without idempotence, or one that starts again and sends what its spool still holds, repeats what had arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dlq_stream.core.model import Headers
from tests.simulation.broker import Place
from tests.simulation.names import OUTCOME_TIMEOUT_SECONDS_MAX

if TYPE_CHECKING:
    from tests.simulation.world import World

REPEATED = 0.08
SLOW = 0.03


class Wire:
    """One client's producer.  ``under_way`` counts what has yet to arrive, on all wires, as `World.under_way` does."""

    def __init__(self, name: str, world: World) -> None:
        self.calm = False
        self._world = world
        self._random = world.random_of(f"wire {name}")
        self._sent = 0
        self._latest: dict[Place, int] = {}

    def send(
        self,
        place: Place,
        key: bytes,
        value: bytes | None,
        headers: Headers = (),
        *,
        arrived: Callable[[], None] = lambda: None,
        lost: Callable[[], bool] = lambda: False,
    ) -> None:
        """Send a record; ``lost`` asks whether its sender died meanwhile, ``arrived`` is told that it got through."""
        self._sent += 1
        number, world = self._sent, self._world

        def arrive() -> None:
            world.under_way -= 1
            if lost():
                return
            now = world.loop.time()
            if now < world.away_until:
                world.outcome.figures["reports held back while brokers were away"] += 1
                self._later(world.away_until - now + self._random.uniform(0.0, 1.0), arrive)
                return
            if number < self._latest.get(place, 0):
                world.outcome.figures["reports overtaken"] += 1
            self._latest[place] = max(number, self._latest.get(place, 0))
            world.broker.produce(*place, key, value, headers)
            arrived()

        self._later(self._delay(), arrive)
        if self._random.random() < REPEATED and not self.calm:
            world.outcome.figures["reports repeated"] += 1
            self._later(self._delay() + self._random.choice((0.0, 1.0, 5.0)), arrive)

    def _delay(self) -> float:
        random = self._random
        if random.random() < SLOW and not self.calm:
            return random.uniform(4.0, 2 * OUTCOME_TIMEOUT_SECONDS_MAX)
        return random.uniform(0.001, 0.2)

    def _later(self, delay: float, arrive: Callable[[], None]) -> None:
        self._world.under_way += 1
        self._world.loop.call_later(delay, arrive)
