"""All that a failure can say, and all that workers say of it then: for what is written about the wire contract."""

from __future__ import annotations

from dlq_stream.core.transaction import Destination
from tests.engine.world import TOPIC, World
from tests.memory import FakeRecord, Sent


def all_that_is_said() -> tuple[FakeRecord, Sent, Sent]:
    """A failure event with every header that one may have, its retry, and its dead letter."""
    world = World()
    world.home.learn(Destination(f"{TOPIC}-own", 8))
    said = {
        "queue": "ovens",
        "error_cause_type": "OSError",
        "failed_at": 1_699_999_999_500,
        "metadata": "{}",
        "outcomes": "reported",
        "retry_after_ms": 0,
        "retry_topic": f"{TOPIC}-own",
        "forwarded": "1",
    }
    failure = world.failure(category="transient", **said)
    world.fail(category="transient", **said)
    world.emit()
    world.fail(attempt=1, category="permanent", **said)
    (retry,) = world.emissions(f"{TOPIC}-own")
    (letter,) = world.dead_letters()
    return failure, retry, letter
