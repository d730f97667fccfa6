"""Failure events as agents send them: about 1 kB of JSON, 13 headers, a stack trace of 1.5 kB; and small ones.

Values and traces come from pools, of which a batch holds more than one of each; where bytes on disk are counted, from
pools large enough that compression finds in a batch what it finds in real events: the same words, other numbers.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator

from aiokafka import AIOKafkaProducer

from dlq_stream.kafka import no_topic_creation

SOURCE = "heat-processing"
VALUE_BYTES = 1_000
STACKTRACE_BYTES = 1_500
POOL = 2_000
POOL_LARGE = 20_000
PORTION = 2_000
"""Records handed to the producer between two waits."""

Event = tuple[bytes, bytes, list[tuple[str, bytes | None]]]
"""Key (the message id as hex digits), value, headers."""


def events(count: int, seed: int, source: str = SOURCE) -> Iterator[Event]:
    """So many failures of first deliveries, each of another message."""
    rng = random.Random(seed)
    values = [_reading(rng) for _ in range(POOL)]
    traces = [_stacktrace(rng) for _ in range(POOL)]
    for number in range(count):
        id_ = rng.randbytes(16).hex().encode()
        headers: list[tuple[str, bytes | None]] = [
            ("trace", rng.randbytes(8).hex().encode()),
            ("dlq-message-id", id_),
            ("dlq-attempt", b"0"),
            ("dlq-group", b"heat-agents"),
            ("dlq-original-topic", source.encode()),
            ("dlq-original-partition", b"%d" % (number % 4)),
            ("dlq-original-offset", b"%d" % (number // 4)),
            ("dlq-original-timestamp", b"%d" % (1_790_000_000_000 + number)),
            ("dlq-original-key", b"furnace-%d" % (number % 500)),
            ("dlq-error-type", b"TimeoutError"),
            ("dlq-error-message", b"sensor backend timed out after %d s" % rng.randint(10, 60)),
            ("dlq-error-stacktrace", rng.choice(traces)),
            ("dlq-failed-at", b"%d" % (1_790_000_000_500 + number)),
        ]
        yield id_, rng.choice(values), headers


def small_events(count: int, seed: int, source: str = SOURCE, pool: int = POOL) -> Iterator[Event]:
    """Values from a pool of so many, with the four headers that any client would write, and no stack trace."""
    rng = random.Random(seed)
    values = [_reading(rng) for _ in range(pool)]
    for _ in range(count):
        id_ = rng.randbytes(16).hex().encode()
        headers: list[tuple[str, bytes | None]] = [
            ("dlq-message-id", id_),
            ("dlq-attempt", b"0"),
            ("dlq-original-topic", source.encode()),
            ("dlq-error-type", b"TimeoutError"),
        ]
        yield id_, rng.choice(values), headers


def readings(count: int, seed: int) -> Iterator[Event]:
    """Records of a source topic: so many values from a pool, of 500 keys, with one header of the user's."""
    rng = random.Random(seed)
    values = [_reading(rng) for _ in range(POOL)]
    for _ in range(count):
        trace: list[tuple[str, bytes | None]] = [("trace", rng.randbytes(8).hex().encode())]
        yield b"furnace-%d" % rng.randrange(500), rng.choice(values), trace


def _reading(rng: random.Random) -> bytes:
    reading: dict[str, object] = {"furnace": f"furnace-{rng.randrange(500)}", "unit": "celsius", "sensors": []}
    sensors: list[object] = []
    while len(encoded := json.dumps({**reading, "sensors": sensors})) < VALUE_BYTES - 40:
        sensors.append({"name": f"zone-{len(sensors)}", "value": round(rng.uniform(20, 1_200), 3)})
    return encoded.encode().ljust(VALUE_BYTES)


def _stacktrace(rng: random.Random) -> bytes:
    lines = ["Traceback (most recent call last):"]
    while sum(map(len, lines)) < STACKTRACE_BYTES - 80:
        module = rng.choice(("agent", "backend", "client", "retry", "transport"))
        lines.append(f'  File "/srv/heat/{module}.py", line {rng.randrange(900)}, in {rng.choice(("call", "fetch"))}')
        lines.append(f"    return await self._{module}.read(sensor, timeout={rng.randrange(60)})")
    lines.append("TimeoutError: sensor backend timed out")
    return "\n".join(lines).encode()[:STACKTRACE_BYTES]


async def fill(bootstrap: str, topic: str, made: Iterator[Event]) -> None:
    """Write events to a topic, each to the partition of its key."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", linger_ms=20, max_batch_size=1 << 20, max_request_size=2 << 20
    )
    async with no_topic_creation(producer):
        while portion := list(itertools.islice(made, PORTION)):
            sent = [await producer.send(topic, value, key=key, headers=headers) for key, value, headers in portion]
            await asyncio.gather(*sent)
