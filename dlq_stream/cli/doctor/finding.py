"""What a check comes to: findings, each with its fix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is; the order is from best to worst.

    * ``OK``: as it should be, or nothing that anybody has to do something about.
    * ``WARNING``: it works, and somebody should see to it.
    * ``WRONG``: messages wait, may be lost or be handled wrongly until somebody does something.
    """

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    ``code`` is a stable word for programs (``topic``, ``lag``), ``subject`` what it is about (a topic, a broker; may be
    empty), ``what`` and ``fix`` are for people; OK needs no fix.
    """

    level: Level
    code: str
    what: str
    fix: str = ""
    subject: str = ""


def ok(code: str, what: str, subject: str = "") -> Finding:
    """All is well."""
    return Finding(Level.OK, code, what, "", subject)


def warning(code: str, what: str, fix: str, subject: str = "") -> Finding:
    """It works, but."""
    return Finding(Level.WARNING, code, what, fix, subject)


def wrong(code: str, what: str, fix: str, subject: str = "") -> Finding:
    """Somebody has to do something."""
    return Finding(Level.WRONG, code, what, fix, subject)


def halves(sentence: str, otherwise: str) -> tuple[str, str]:
    """What is wrong, and the fix, of an error of ours: ``topic x does not exist; run ...``."""
    what, _, fix = sentence.partition("; ")
    return what, fix or otherwise


def counted(number: int, noun: str) -> str:
    """``1 topic``, ``2 topics``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def some(names: list[str], most: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
