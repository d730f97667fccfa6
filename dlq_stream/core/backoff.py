"""How long to wait before retry number n, and the chance that jitter takes: pure arithmetic, exact by default.

``min(initial * multiplier ** (n - 1), max)``: with the default policy 60 s, 300 s, 1500 s, and never above 3600 s.
Jitter follows Marc Brooker's "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).  Its chance is derived
from the message's id and attempt instead of drawn: staging a batch twice gives the same schedule, and anyone who has a
record can recompute when it was due.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlq_stream.core.policy import RetryPolicy

_FLOAT_BITS = 53


def backoff_ms(policy: RetryPolicy, retry: int, chance: float = 0.0) -> int:
    """Milliseconds to wait before the ``retry``-th retry (1 is the first).

    ``chance`` is in [0, 1) and matters under jitter only: ``full`` waits that part of the exact backoff, ``equal``
    half of it plus that part of the other half, ``none`` the exact backoff.
    """
    if retry < 1:
        raise ValueError(f"retry: {retry} is not the number of a retry, the first is 1")
    exact = _exact_ms(policy, retry)
    if policy.jitter == "full":
        return int(exact * chance)
    if policy.jitter == "equal":
        half = exact // 2
        return half + int((exact - half) * chance)
    return exact


def _exact_ms(policy: RetryPolicy, retry: int) -> int:
    try:
        grown = policy.initial_backoff_ms * policy.backoff_multiplier ** (retry - 1)
    except OverflowError:  # beyond every bound, unless there was nothing to grow
        return policy.max_backoff_ms if policy.initial_backoff_ms else 0
    return int(min(grown, policy.max_backoff_ms))


def chance_of(id: bytes, attempt: int) -> float:  # noqa: A002 - the design's word for it
    """A number in [0, 1), uniform over ids and attempts, always the same for the same two."""
    digest = blake2b(id + attempt.to_bytes(8, "big"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 64 - _FLOAT_BITS) / (1 << _FLOAT_BITS)
