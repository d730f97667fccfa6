"""Events that nobody can understand, or that want what is forbidden: each must end in quarantine, whole."""

from __future__ import annotations

from random import Random

from dlq_stream.core.commands import Succeeded, encode_command
from dlq_stream.core.headers import ATTEMPT, MESSAGE_ID, ORIGINAL_PARTITION, ORIGINAL_TOPIC
from dlq_stream.core.model import Headers
from tests.simulation.names import APP, COMMANDS, FAILURES, HEAT, QUARANTINE_BYTES_MAX

POISON = "x-poison"
"""A header of events that must go to quarantine; every other event that does is a finding."""

Event = tuple[str, bytes | None, Headers]

_MARK = (POISON, b"1")
_TOPIC = (ORIGINAL_TOPIC, HEAT.encode())
_NOISE = Random(1).randbytes(QUARANTINE_BYTES_MAX + 10_000)
_EVENTS: tuple[Event, ...] = (
    (FAILURES, b"\xff\xfe", (_MARK,)),
    (FAILURES, b"x", (_MARK, (ORIGINAL_TOPIC, b"\xff"))),
    (FAILURES, b"x", (_MARK, _TOPIC, (ORIGINAL_PARTITION, b"1"))),
    (FAILURES, b"x", (_MARK, _TOPIC, (ATTEMPT, b"many"))),
    (FAILURES, b"x", (_MARK, _TOPIC, (MESSAGE_ID, b"7"))),
    (FAILURES, b"x", (_MARK, (ORIGINAL_TOPIC, f"{APP}-failures".encode()))),
    (FAILURES, b"x", (_MARK, (ORIGINAL_TOPIC, b"__consumer_offsets"))),
    (FAILURES, b"x", (_MARK, ("\udcff", b"\xff"))),
    (COMMANDS, None, (_MARK,)),
    (COMMANDS, b'{"type": "explode"}', (_MARK,)),
    (COMMANDS, b"[" * 50_000, (_MARK,)),
    (COMMANDS, encode_command(Succeeded(bytes(16), 1))[:-1], (_MARK,)),
    (COMMANDS, b" " * (QUARANTINE_BYTES_MAX + 10_000), (_MARK,)),  # goes there packed
    (FAILURES, _NOISE, (_MARK,)),  # does not even fit when it is packed
)


def poison(random: Random) -> Event:
    """One of them: topic, value, headers."""
    return random.choice(_EVENTS)
