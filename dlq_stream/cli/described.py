"""All that is known of one message, as lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from dlq_stream.cli import payload
from dlq_stream.cli.layout import age_seconds, aligned, duration, in_one_line, instant, printable
from dlq_stream.cli.rows import as_of_line, away, status_of
from dlq_stream.cli.show import hidden_in, secrets_of
from dlq_stream.view.selection import OPEN

if TYPE_CHECKING:
    from dlq_stream.cli.show import Shown
    from dlq_stream.core.masking import Secrets
    from dlq_stream.settings import Settings
    from dlq_stream.tables.attempts import Attempt
    from dlq_stream.tables.messages import Message

TRACE_LINES_MAX: Final = 8
"""So many lines of a stack trace are shown, the last ones, unless all was asked for."""

TEXT_CHARS_MAX: Final = 500
"""So much of an error's message is shown, unless all was asked for."""


def as_lines(settings: Settings, shown: Shown, *, full: bool) -> list[str]:
    """Of which moment this is; the message's state; its attempts; the record."""
    lines = [as_of_line(settings.app_id, shown.as_of), ""]
    lines += aligned(list(_state(shown.message_id, shown.row, shown.as_of.as_of_ms)), right=())
    secrets = secrets_of(shown)
    for number, attempt in shown.attempts:
        lines += ["", *_attempt(number, attempt, secrets, full=full)]
    return [*lines, "", *_record(shown, full=full)]


def _state(message_id: bytes, row: Message, as_of_ms: int) -> Iterator[tuple[str, str]]:
    yield "message", message_id.hex()
    yield "queue", in_one_line(row.queue)
    yield "status", _status(row, as_of_ms)
    yield "attempt", f"{row.attempt}, retries count from {row.attempt_base}; revision {row.revision}"
    yield "error", f"{in_one_line(row.error_type) or '-'} ({row.category})"
    yield "failed", f"first {_ago(row.created_ms, as_of_ms)}, last {_ago(row.last_failed_ms or None, as_of_ms)}"
    place = "" if row.origin_partition is None else f" partition {row.origin_partition} offset {row.origin_offset}"
    yield "original", f"{in_one_line(row.origin_topic)}{place}"
    yield (
        "group",
        f"{in_one_line(row.group) or '-'}, {'reports' if row.outcomes_reported else 'does not report'} outcomes",
    )
    for name, text in (
        ("reason", ": ".join(filter(None, (row.reason, row.detail)))),
        ("not in -dlq", row.dead_letter_reason),
        ("stuck", row.stuck_reason),
        ("retries go to", row.retry_topic),
    ):
        if text:
            yield name, in_one_line(text)
    if row.closed_ms is not None:
        yield "closed", _ago(row.closed_ms, as_of_ms)


def _status(row: Message, as_of_ms: int) -> str:
    if row.due_ms is None:
        return status_of(row)
    if row.status not in OPEN:
        return f"{status_of(row)}, next try to write its -dlq record at {instant(row.due_ms)}"
    what = "due" if row.status == "pending" else "outcome expected until"
    return f"{status_of(row)}, {what} {instant(row.due_ms)} ({away(row.due_ms, as_of_ms)})"


def _ago(instant_ms: int | None, as_of_ms: int) -> str:
    age = age_seconds(instant_ms, as_of_ms)
    return "-" if age is None else f"{instant(instant_ms)} ({duration(age)} ago)"


def _attempt(number: int, attempt: Attempt | None, secrets: Secrets, *, full: bool) -> Iterator[str]:
    if attempt is None:
        yield f"attempt {number}: its row cannot be read"
        return
    told = "" if attempt.failed_at is None else f", failed {instant(attempt.failed_at)} by the reporter's clock"
    yield f"attempt {number}, recorded {instant(attempt.recorded_ms)}{told}"
    types = in_one_line(", ".join(attempt.error_types)) or "no error type"
    cause = f"; caused by {in_one_line(', '.join(attempt.cause_types))}" if attempt.cause_types else ""
    yield f"  {types}{cause}"
    message = secrets.hide(attempt.error_message)
    if message:
        yield from _indented(_cut(message, full=full))
    yield f"  {attempt.category} by rule: {in_one_line(attempt.rule)}"
    trace = secrets.hide(attempt.stacktrace.decode("utf-8", "replace")).rstrip("\n")
    if trace:
        lines = printable(trace).split("\n")
        hidden = 0 if full else max(0, len(lines) - TRACE_LINES_MAX)
        if hidden:
            yield f"  … {hidden} lines of the stack trace before; --full shows them"
        yield from _indented(lines[hidden:])
    if attempt.metadata is not None:
        yield "  metadata"
        yield from _indented(payload.as_lines(payload.content_of(hidden_in(attempt.metadata, secrets)), full=full), 4)


def _cut(text: str, *, full: bool) -> list[str]:
    if full or len(text) <= TEXT_CHARS_MAX:
        return printable(text).split("\n")
    return [*printable(text[:TEXT_CHARS_MAX]).split("\n"), f"… of {len(text):,} characters; --full shows them all"]


def _record(shown: Shown, *, full: bool) -> Iterator[str]:
    if shown.record is None:
        yield "the original record is not in the table of attempts"
        return
    headers, value = shown.record.headers, payload.content_of(shown.record.value)
    yield f"key      {payload.in_short(shown.key, full=full)}"
    yield f"headers  {len(headers) or 'none'}"
    yield from _indented(f"{in_one_line(name)}: {payload.in_short(given, full=full)}" for name, given in headers)
    size = "" if value.kind == "null" else f", {len(value.raw):,} bytes"
    yield f"value    {value.kind}{size}{', masked' if 'value' in shown.record.parts else ''}"
    if value.kind != "null":
        yield from _indented(payload.as_lines(value, full=full))


def _indented(lines: Iterable[str], by: int = 2) -> Iterator[str]:
    return (f"{' ' * by}{line}" for line in lines)
