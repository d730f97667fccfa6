"""The screen's numbers come out the same in whatever order the topics are read."""

from __future__ import annotations

import json
import random

from dlq_stream.demo.ledger import Ledger
from dlq_stream.demo.screen import PlainScreen, Process, View
from tests.demo.test_verdict import EVENTS, PLAN, SLOW, Read, World, failure, id_of


def records() -> list[Read]:
    world = World()
    command = {"type": "succeeded", "message_id": id_of(SLOW).hex(), "attempt": 2}
    return [
        *world.source,
        *world.results,
        *world.dead_letters,
        *world.failures,
        Read(PLAN.commands, 0, 0, None, json.dumps(command).encode()),
    ]


def test_the_order_does_not_matter() -> None:
    """A retry may be seen before the failure that it follows from."""
    violations = sum(each.is_violation for each in EVENTS)
    for seed in range(5):
        shuffled = records()
        random.Random(seed).shuffle(shuffled)
        ledger = Ledger(PLAN)
        ledger.add(shuffled)
        numbers = ledger.figures()
        assert (numbers.produced, numbers.failed) == (200, 2 + violations)
        assert numbers.processed == 200 - violations + numbers.failed
        assert (numbers.pending, numbers.retrying) == (0, 0)
        assert (numbers.resolved, numbers.escalated) == (1, violations)
        assert numbers.lateness_ms_max == 5
        assert ledger.is_drained(200)
        assert not ledger.is_drained(201)


def test_what_is_open_is_not_drained() -> None:
    """Pending after a failure, retrying after the emission."""
    ledger = Ledger(PLAN)
    ledger.add(record for record in records() if record.topic != PLAN.commands)
    assert (ledger.figures().retrying, ledger.is_drained(200)) == (1, False)
    ledger.add([failure(SLOW, 2, 1_006_000)])
    assert (ledger.figures().pending, ledger.figures().retrying) == (1, 0)


def test_what_nobody_understands_is_passed_over() -> None:
    """The screen never ends the demo."""
    ledger = Ledger(PLAN)
    odd = [b"", b"\xff", b"[]", b'{"type": "retry"}', b'{"type": "succeeded", "message_id": 3}', None]
    for topic in ledger.topics:
        ledger.add(Read(topic, 0, 0, b"\xff", value, (("dlq-message-id", b"?"),)) for value in odd)
    assert ledger.figures().pending == 0


def test_plain_lines_come_seldom_and_when_something_happens(capsys: object) -> None:
    """Scripts' logs stay short."""
    lines: list[str] = []

    class Out:
        def write(self, text: str) -> int:
            lines.append(text)
            return len(text)

        def flush(self) -> None:
            pass

    shown = PlainScreen(Out())  # type: ignore[arg-type]
    numbers = Ledger(PLAN).figures()

    def view(elapsed: float, notice: str = "") -> View:
        return View("h", elapsed, 10, 200, False, numbers, [Process("worker-1", "pid 1", 0)], notice)

    for tenth in range(100):
        shown.show(view(tenth / 10))
    shown.show(view(10, "worker-1 was killed"))
    assert sum("readings" in line for line in lines) == 3
    assert "worker-1 was killed" in "".join(lines)
