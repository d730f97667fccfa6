"""Which failures are the same."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.engine.fingerprint import fingerprint


def test_what_varies_does_not_count() -> None:
    """Numbers, ids, hashes, times; words and types do."""
    same = fingerprint("TimeoutError", "no answer from sensor 17 in 30.5 s (request 9f3c-a1)")
    assert fingerprint("TimeoutError", "no answer from sensor 4 in 2.0 s (request 01ab-77)") == same
    assert fingerprint("TimeoutError", "no answer from boiler 4 in 2.0 s (request 01ab-77)") != same
    assert fingerprint("KeyError", "no answer from sensor 17 in 30.5 s (request 9f3c-a1)") != same
    assert len(same) == 8


@given(st.text(), st.text())
def test_any_text_has_one(error_type: str, message: str) -> None:
    """Lone surrogates, too; and always the same one."""
    assert fingerprint(error_type, message) == fingerprint(error_type, message)
    assert fingerprint("\ud800" + error_type, message + "\udfff")


def test_it_takes_linear_time() -> None:
    """A hostile message is no different from others."""
    began = time.process_time()
    for n in range(200):
        fingerprint("E", "a" * (10_000 + n))
    assert time.process_time() - began < 2
