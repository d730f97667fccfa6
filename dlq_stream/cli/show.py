"""``dlq-stream show ID``: all that is known of one message."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from dlq_stream.cli import payload
from dlq_stream.cli.kinds import MESSAGE_ID
from dlq_stream.cli.options import settings_options, showing_options
from dlq_stream.cli.run import EXIT_FAILED, fail, run
from dlq_stream.core.masking import NO_MASKING, Masked, Masking
from dlq_stream.settings import Settings
from dlq_stream.settings.groups import ConnectionSettings, LogSettings, MaskingSettings

if TYPE_CHECKING:
    from dlq_stream.core.masking import Secrets
    from dlq_stream.tables.attempts import Attempt
    from dlq_stream.tables.messages import Message
    from dlq_stream.view.app import AsOf


class Shown(NamedTuple):
    """What there is to show of a message; None for what cannot be read or is not there."""

    message_id: bytes
    row: Message
    attempts: list[tuple[int, Attempt | None]]
    record: Masked | None
    """Headers and value of the original record, masked."""
    key: bytes | None
    as_of: AsOf


@click.command("show")
@click.argument("message_id", metavar="ID", type=MESSAGE_ID)
@showing_options("payload, headers and stack traces")
@settings_options(ConnectionSettings, MaskingSettings, LogSettings)
def command(message_id: bytes, full: bool, unmasked: bool, as_json: bool, **options: Any) -> None:
    """Show one message: its state, every attempt that is kept, and the original record.

    The payload is shown as JSON, text or hex, whichever it is. What mask_headers and mask_pointers name is hidden, also
    where an error's text repeats it. Read from Kafka alone, from the partition of this message.
    """

    def body(settings: Settings) -> int:
        from dlq_stream.cli.described import as_lines

        masking = NO_MASKING if unmasked else settings.masking
        shown = asyncio.run(read(settings, message_id, masking))
        if shown is None:
            fail(f"message {message_id.hex()}: there is none; it was never reported here, or purged", EXIT_FAILED)
        text = as_json_text(settings, shown) if as_json else "\n".join(as_lines(settings, shown, full=full))
        click.echo(text)
        return 0

    run(options, body, quiet=True)


async def read(settings: Settings, message_id: bytes, masking: Masking) -> Shown | None:
    """What there is of a message; None where there is no row of it."""
    from dlq_stream.tables import attempts, messages
    from dlq_stream.view.app import open_app
    from dlq_stream.view.history import read_history
    from dlq_stream.view.messages import read_by_id

    topics = (messages.TABLE.changelog(settings.app_id), attempts.TABLE.changelog(settings.app_id))
    async with open_app(settings, *topics) as app:
        answer = await read_by_id(app, [message_id])
        found = next(answer.first(1), None)
        if found is None:
            return None
        row = found[1]
        history = await read_history(app, message_id, row)
    holder = next((each for _, each in history if each is not None and each.has_record), None)
    record = None if holder is None else masking.apply(holder.headers, holder.value)
    return Shown(message_id, row, history, record, None if holder is None else holder.key, answer.as_of)


def as_json_text(settings: Settings, shown: Shown) -> str:
    """The JSON object: `rows.as_of_object`'s fields, ``message`` (`rows.as_object`), ``attempts``, ``record``.

    ``record`` is null where it is not there.  ``masked`` lists what was hidden of it: ``headers``, ``value``.  Contents
    are objects of `payload.as_object`.  An attempt that cannot be read has its number only.
    """
    from dlq_stream.cli.rows import as_object, as_of_object

    record = shown.record
    told = {
        **as_of_object(settings.app_id, shown.as_of),
        "message": as_object(shown.message_id, shown.row, shown.as_of.as_of_ms),
        "attempts": [_attempt(number, attempt, secrets_of(shown)) for number, attempt in shown.attempts],
        "record": None
        if record is None
        else {
            "key": payload.as_object(payload.content_of(shown.key)),
            "headers": [
                {"name": name, **payload.as_object(payload.content_of(value))} for name, value in record.headers
            ],
            "value": payload.as_object(payload.content_of(record.value)),
            "masked": list(record.parts),
        },
    }
    return json_text(told)


def secrets_of(shown: Shown) -> Secrets:
    """What was hidden of the record, to be hidden in other texts."""
    from dlq_stream.core.masking import Secrets

    return Secrets() if shown.record is None else shown.record.secrets


def _attempt(number: int, attempt: Attempt | None, secrets: Secrets) -> dict[str, Any]:
    if attempt is None:
        return {"attempt": number}
    return {
        "attempt": number,
        "recorded_ms": attempt.recorded_ms,
        "failed_at_ms": attempt.failed_at,
        "group": attempt.group,
        "error_types": attempt.error_types,
        "cause_types": attempt.cause_types,
        "error_message": secrets.hide(attempt.error_message),
        "category": attempt.category,
        "rule": attempt.rule,
        "stacktrace": secrets.hide(attempt.stacktrace.decode("utf-8", "replace")),
        "metadata": payload.as_object(payload.content_of(hidden_in(attempt.metadata, secrets))),
    }


def hidden_in(raw: bytes | None, secrets: Secrets) -> bytes | None:
    """Bytes without the secrets that are found in their text; untouched where there are none to look for."""
    return secrets.hide(raw.decode("utf-8", "backslashreplace")).encode() if raw and secrets else raw


def json_text(told: Any) -> str:
    """JSON for programs that a terminal can be trusted with: ASCII only, laid out; JSON within it digit by digit."""
    text = msgspec.json.format(msgspec.json.encode(told).decode(), indent=2)
    return re.sub(r"[^ -~\n]", _as_escape, text)  # such letters stand in strings only


def _as_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))
