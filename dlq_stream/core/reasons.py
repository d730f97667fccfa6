"""Why a message does not move on, in the few words that statistics, logs and ``dlq-stream status`` go by.

A row keeps what was said in full, and texts of brokers and exceptions may hold anything.  Figures are kept by the first
word of it, where that is one of these, so they are as many as there are members here, whatever the input is.
"""

from __future__ import annotations

import re
from enum import StrEnum

_FIRST_WORD = re.compile(r"[a-z-]*")


class StuckReason(StrEnum):
    """Why a timer could not process a message's row, which then waits for an operator.

    * ``RECORD_MISSING``: the original record is not in the table of attempts.
    * ``UNDECODABLE``: the bytes of a row make no sense.
    * ``UNEXPECTED``: an error that nobody foresaw; the row names it.
    """

    RECORD_MISSING = "record-missing"
    UNDECODABLE = "undecodable"
    UNEXPECTED = "unexpected"

    @classmethod
    def of(cls, text: str) -> StuckReason:
        """The reason that `Message.stuck_reason` begins with."""
        word = _first_word(text)
        return cls(word) if word in _STUCK else cls.UNEXPECTED


class UnwrittenReason(StrEnum):
    """Why an ESCALATED message is not in its ``-dlq`` topic.

    * ``UNKNOWN``: nothing is known of the topic yet; ``DEFERRED``: the transaction had written enough.  Both pass
      within a second.
    * ``MISSING``, ``NOT_AUTHORISED``, ``POLICY_VIOLATION``, ``UNUSABLE``, ``UNAVAILABLE``: the topic, as the brokers
      have it; the write is tried again.
    * ``FORBIDDEN``: today's settings do not allow the original topic; tried again.
    * ``INVALID_NAME``, ``TOO_LARGE``, ``INVALID_RECORD``, ``RECORD_MISSING``: it can never be written.
    * ``OTHER``: none of these; the row has the text.
    """

    UNKNOWN = "unknown"
    DEFERRED = "deferred"
    MISSING = "missing"
    NOT_AUTHORISED = "not-authorised"
    POLICY_VIOLATION = "policy-violation"
    UNUSABLE = "unusable"
    UNAVAILABLE = "unavailable"
    FORBIDDEN = "forbidden"
    INVALID_NAME = "invalid-name"
    TOO_LARGE = "too-large"
    INVALID_RECORD = "invalid-record"
    RECORD_MISSING = "record-missing"
    OTHER = "other"

    @classmethod
    def of(cls, text: str) -> UnwrittenReason:
        """The reason that `Message.dead_letter_reason` begins with."""
        word = _first_word(text)
        return cls(word) if word in _UNWRITTEN else cls.OTHER


_STUCK = frozenset(StuckReason)
_UNWRITTEN = frozenset(UnwrittenReason)


def _first_word(text: str) -> str:
    found = _FIRST_WORD.match(text)
    return found[0] if found else ""
