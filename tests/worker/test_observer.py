"""What is logged of the engine's events: no word of a sender's, and no more warnings than people can read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest

from dlq_stream.core.events import SENDERS_WORDS, DeadLetterDelayed, EventQuarantined, Happening, RetryEmitted, RowStuck
from dlq_stream.core.reasons import StuckReason, UnwrittenReason
from dlq_stream.worker import observer as module
from dlq_stream.worker.observer import Observer, fields_of

ID = bytes(range(16))
MARK = "7f3a-confidential"
OUR_WORDS = {"rule", "topic", "fault", "error"}
"""Fields of text that are ours: a rule is from the settings, an event's topic is the app's, the others name code."""

CatchesLog = Callable[[], list[logging.LogRecord]]


def one_of(kind: Any) -> Happening:
    """An event whose senders' words are marked."""
    samples: dict[Any, Any] = {bytes: ID, int: 7, bool: True, str: "ours"}
    values = {}
    for name, hint in get_type_hints(kind).items():
        values[name] = MARK if name in SENDERS_WORDS else samples.get(hint, next(iter(get_args(hint) or [None])))
    event: Happening = kind(**values)
    return event


@pytest.mark.parametrize("kind", get_args(Happening), ids=lambda kind: kind.__name__)
def test_nothing_that_a_sender_wrote_is_logged(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    """At no level; a new field of text has to be sorted into one of the two kinds here."""
    texts = {name for name, hint in get_type_hints(kind).items() if hint is str}
    assert texts <= SENDERS_WORDS | OUR_WORDS
    caplog.set_level(logging.DEBUG)
    Observer()(one_of(kind))
    told = [(each.getMessage(), each.fields) for each in caplog.records]
    assert told[0][0] == kind.__name__
    assert MARK not in str(told)
    assert ("message_id" in told[0][1]) == ("id" in kind._fields)


def test_what_is_logged_of_an_event() -> None:
    """The id as people write it, and the numbers."""
    event = RetryEmitted(ID, MARK, 2, MARK, 13)
    assert fields_of(event) == {"message_id": ID.hex(), "attempt": 2, "late_ms": 13}


def stuck(reason: StuckReason = StuckReason.UNEXPECTED) -> RowStuck:
    return RowStuck(ID, MARK, reason, "KeyError")


def test_warnings_are_told_once_and_summed_up(caplog: pytest.LogCaptureFixture) -> None:
    """A million poison events are two lines in a minute, one at once and one with the number."""
    watch = Observer()
    for _ in range(1_000):
        watch(stuck())
        watch(EventQuarantined("app-failures", 1, 5, "dlq-attempt"))
    watch(DeadLetterDelayed(ID, MARK, MARK, UnwrittenReason.MISSING, 99))
    watch(stuck(StuckReason.UNDECODABLE))
    at_once = [each.fields for each in caplog.records]
    assert [each.levelname for each in caplog.records] == ["WARNING"] * 4
    assert at_once[0] == {"message_id": ID.hex(), "reason": "unexpected", "error": "KeyError"}
    assert at_once[1] == {"topic": "app-failures", "partition": 1, "offset": 5, "fault": "dlq-attempt"}
    assert at_once[2] == {"message_id": ID.hex(), "reason": "missing", "retry_ms": 99}
    caplog.clear()
    watch.sum_up()
    assert [each.fields for each in caplog.records] == [
        {"reason": "unexpected", "more": 999},
        {"reason": "dlq-attempt", "more": 999},
    ]
    caplog.clear()
    watch.sum_up()
    watch(stuck())
    assert [each.fields for each in caplog.records] == at_once[:1]


def test_kinds_of_warnings_have_a_bound(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever names there come to be."""
    monkeypatch.setattr(module, "WARNINGS_MAX", 2)
    watch = Observer()
    for number in range(10):
        watch(EventQuarantined("app-failures", 1, number, f"fault {number}"))
    assert len(caplog.records) == 2
    watch.sum_up()
    assert caplog.records[-1].fields == {"reason": "other", "more": 8}


async def test_it_sums_up_every_interval_and_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no number is lost when a worker is told to stop."""
    monkeypatch.setattr(module, "WARNING_SECONDS", 0)
    watch = Observer()
    for _ in range(3):
        watch(stuck())
    running = asyncio.create_task(watch.run())
    for _ in range(5):
        await asyncio.sleep(0)
    assert caplog.records[-1].fields == {"reason": "unexpected", "more": 2}
    for _ in range(5):
        watch(stuck())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert caplog.records[-1].fields == {"reason": "unexpected", "more": 4}
