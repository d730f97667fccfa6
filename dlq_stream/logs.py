"""Log lines, as text for people or as JSON for machines, on standard error.

Payloads, keys and header values are never logged; names of topics are no secret.  Our own code does not log them (see
`dlq_stream.worker.observer`); aiokafka and Faust write whole requests and events at level debug, so theirs is never
shown, under Faust's own command neither (`dlq_stream.worker.app`).  Their chatter of level info (every service that
starts, every subscription) is shown where level debug is asked for.

A record's structured fields travel in ``extra={"fields": {...}}``: members of the object in JSON, ``name=value`` behind
the text otherwise.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any, Final, Literal, TextIO

LogFormat = Literal["text", "json"]

THEIRS: Final = ("aiokafka", "asyncio", "faust", "kafka", "mode")
"""Loggers of others, whose debug lines may show payloads."""

REPEAT_SECONDS: Final = 60.0
COMPLAINTS_MAX: Final = 1000

_SPACE = {ord("\r"): "\\r", ord("\n"): "\\n"}


def set_up(log_format: LogFormat = "text", level: str = "info", stream: TextIO | None = None) -> None:
    """Log to ``stream`` (standard error by default) and nowhere else; may be called again."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    handler.addFilter(without_verification_noise)
    handler.addFilter(WithoutRepeats())
    root = logging.getLogger()
    for former in root.handlers[:]:
        root.removeHandler(former)
    root.addHandler(handler)
    least = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(least)
    is_detailed = least <= logging.DEBUG
    for name in THEIRS:
        logging.getLogger(name).setLevel(logging.INFO if is_detailed else max(least, logging.WARNING))
    if not is_detailed:
        handler.addFilter(without_service_chatter)
    logging.captureWarnings(True)


def without_verification_noise(record: logging.LogRecord) -> bool:
    """Drop aiokafka's warning that it tries again after NotEnoughReplicas.

    Brokers with transaction verification (KIP-890) answer old clients with that error while the marker of the
    producer's previous transaction is still being written: harmless, and frequent with many short transactions.  When
    replicas really are missing, the write runs into its deadline, and that is logged.
    """
    return not (
        record.name.startswith("aiokafka.producer")
        and "retrying" in str(record.msg)
        and "NotEnoughReplicas" in record.getMessage()
    )


def without_service_chatter(record: logging.LogRecord) -> bool:
    """Drop mode's "[^--Consumer]: Starting...", which it writes for subclasses of ours under our names."""
    return record.levelno >= logging.WARNING or not str(record.msg).startswith("[^")


class WithoutRepeats:
    """Let each of aiokafka's complaints through once in `REPEAT_SECONDS`.

    A client that looks for a topic which is gone, or for a broker that is away, complains at every look: a hundred
    times a second, and there is a client for each partition.  At most `COMPLAINTS_MAX` complaints are remembered;
    beyond it all are forgotten, and said again.
    """

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def __call__(self, record: logging.LogRecord) -> bool:
        """Whether to let this record through."""
        if not record.name.startswith("aiokafka"):
            return True
        complaint = record.getMessage()
        if record.created - self._said.get(complaint, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return False
        if len(self._said) >= COMPLAINTS_MAX:
            self._said.clear()
        self._said[complaint] = record.created
        return True


class TextLines(logging.Formatter):
    """``2026-07-04T12:00:00.123Z INFO dlq_stream.worker: text name=value``, UTC; a traceback follows below."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, plus the traceback where there is one."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        text = f"{record.getMessage()}{fields}".translate(_SPACE)
        line = f"{_instant(record)} {record.levelname} {record.name}: {text}"
        error = _traceback(record)
        return f"{line}\n{error}" if error else line


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message, the fields, and ``traceback`` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line without line breaks; what JSON does not know becomes text."""
        content: dict[str, Any] = {
            "time": _instant(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        content |= {name: value for name, value in _fields(record).items() if name not in content}
        error = _traceback(record)
        if error:
            content["traceback"] = error
        return json.dumps(content, default=str, ensure_ascii=False)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _instant(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _traceback(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return "".join(traceback.format_exception(*record.exc_info)).rstrip()
