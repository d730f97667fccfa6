"""The words that statistics, logs and status go by."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.reasons import StuckReason, UnwrittenReason


@given(st.text())
def test_any_text_has_a_reason(text: str) -> None:
    """One of the few, whatever was said."""
    assert StuckReason.of(text) in StuckReason
    assert UnwrittenReason.of(text) in UnwrittenReason


def test_a_reason_is_the_first_word_of_a_text() -> None:
    """What follows is for people who look at the row."""
    for reason in StuckReason:
        assert StuckReason.of(f"{reason}: KeyError: 'x'") is reason
        assert StuckReason.of(reason) is reason
    for reason in UnwrittenReason:
        assert UnwrittenReason.of(f"{reason}, and its creation was refused: no") is reason
        assert UnwrittenReason.of(f"{reason} (WhateverError)") is reason
    assert StuckReason.of("undecodables") is StuckReason.UNEXPECTED
    assert UnwrittenReason.of("missing-link") is UnwrittenReason.OTHER


def test_reasons_are_labels() -> None:
    """Lower-case words, which no figure's name is confused with."""
    assert all(re.fullmatch("[a-z]+(-[a-z]+)*", reason) for reason in [*StuckReason, *UnwrittenReason])
