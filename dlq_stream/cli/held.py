"""Records in quarantine as commands show them: a line, an object, or all of one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

import click

from dlq_stream.cli import payload
from dlq_stream.cli.layout import age_seconds, aligned, duration, in_one_line, instant
from dlq_stream.cli.rows import as_of_line, as_of_object
from dlq_stream.cli.run import EXIT_FAILED, fail
from dlq_stream.cli.show import json_text
from dlq_stream.core.masking import NO_MASKING, Masked
from dlq_stream.core.model import Record
from dlq_stream.settings import Settings
from dlq_stream.topics import AppTopics
from dlq_stream.view.app import open_app
from dlq_stream.view.quarantine import Listed, records_at
from dlq_stream.view.restored import Held, Place, held, received_headers, received_value

REASON_CHARS_MAX: Final = 80
"""Longer reasons are cut in tables."""


def as_lines(settings: Settings, listed: Listed, limit: int | None) -> list[str]:
    """Of which moment this is, the table, the latest first, and how many more there are."""
    at = listed.as_of.as_of_ms
    shown = listed.records[::-1][:limit]
    lines = [as_of_line(settings.app_id, listed.as_of), ""]
    lines += table(settings, shown, at) if shown else ["Nothing in quarantine fits."]
    if len(listed.records) > len(shown):
        more = len(listed.records) - len(shown)
        lines += ["", f"{more} more of {len(listed.records)}; --limit N or --all shows them"]
    return lines


def table(settings: Settings, records: list[Held], as_of_ms: int) -> list[str]:
    """A header, and a line for each record."""
    header = ("RECORD", "KIND", "AGE", "KEY", "VALUE", "REASON")
    return aligned([header, *(_cells(settings, told, as_of_ms) for told in records)], right=(2, 3, 4))


def _cells(settings: Settings, told: Held, as_of_ms: int) -> tuple[str, ...]:
    notes = " (packed)" if told.packed else " (cut)" if told.cut else ""
    return (
        str(told.place),
        in_one_line(kind_of(settings, told) or told.topic or "?", 30),
        duration(age_seconds(told.timestamp_ms, as_of_ms) or 0),
        _size(told.key_bytes),
        f"{_size(told.value_bytes)}{notes}",
        in_one_line(told.reason, REASON_CHARS_MAX),
    )


def _size(count: int | None) -> str:
    return "null" if count is None else f"{count} B"


def kind_of(settings: Settings, told: Held) -> str | None:
    """``failures`` or ``commands``: the topic of ours that it came from; None for any other."""
    topics = AppTopics(settings.app_id)
    return {topics.failures: "failures", topics.commands: "commands"}.get(told.topic)


def listed_as_object(settings: Settings, listed: Listed, limit: int | None) -> dict[str, Any]:
    """The list as JSON.  Names and units are a contract: fields are added, never renamed.

    ``matched`` counts all that fit; ``records`` has no more than the limit of them, the latest first, see `as_object`.
    """
    return {
        **as_of_object(settings.app_id, listed.as_of),
        "matched": len(listed.records),
        "records": [as_object(settings, told, listed.as_of.as_of_ms) for told in listed.records[::-1][:limit]],
    }


def as_object(settings: Settings, told: Held, as_of_ms: int) -> dict[str, Any]:
    """A record as JSON shows it.

    ``record`` names it; ``quarantined_ms`` is the brokers' clock; ``received`` is where it was then; sizes are as it
    lies there (``packed``: compressed), null for null; ``cut`` says what it was where only its beginnings are there.
    """
    return {
        "record": str(told.place),
        "kind": kind_of(settings, told),
        "reason": told.reason,
        "quarantined_ms": told.timestamp_ms,
        "age_seconds": age_seconds(told.timestamp_ms, as_of_ms),
        "received": {"topic": told.topic or None, "partition": told.partition, "offset": told.offset},
        "key_bytes": told.key_bytes,
        "value_bytes": told.value_bytes,
        "headers": told.headers,
        "packed": told.packed,
        "cut": told.cut or None,
    }


def show(settings: Settings, place: Place, *, full: bool, unmasked: bool, as_json: bool) -> int:
    """Show all of one record."""
    record = asyncio.run(_record(settings, place))
    if record is None:
        fail(f"record {place}: there is none in quarantine, or retention took it", EXIT_FAILED)
    masking = NO_MASKING if unmasked else settings.masking
    try:
        masked, note = masking.apply(received_headers(record), received_value(record)), ""
    except ValueError as wrong:  # what lies there is shown, then
        masked, note = masking.apply(received_headers(record), record.value), str(wrong)
    if as_json:
        click.echo(_as_json(settings, record, masked, note))
    else:
        click.echo("\n".join(_as_text(settings, record, masked, note, full=full)))
    return 0


async def _record(settings: Settings, place: Place) -> Record | None:
    async with open_app(settings, AppTopics(settings.app_id).quarantine) as app:
        async for record in records_at(app, [place]):
            found: Record = record
            return found
    return None


def _as_json(settings: Settings, record: Record, masked: Masked, note: str) -> str:
    """`as_object`'s fields, with ``key``, ``headers`` and ``value`` as received (`payload.as_object`), ``masked``.

    ``note`` says why the value is shown as it lies there, null where it is as it was received.
    """
    from dlq_stream.view.app import now_ms

    return json_text(
        {
            "app_id": settings.app_id,
            **as_object(settings, held(record), now_ms()),
            "key": payload.as_object(payload.content_of(record.key)),
            "headers": [
                {"name": name, **payload.as_object(payload.content_of(value))} for name, value in masked.headers
            ],
            "value": payload.as_object(payload.content_of(masked.value)),
            "masked": list(masked.parts),
            "note": note or None,
        }
    )


def _as_text(settings: Settings, record: Record, masked: Masked, note: str, *, full: bool) -> Iterator[str]:
    told, value = held(record), payload.content_of(masked.value)
    rows = [
        ("record", str(told.place)),
        ("reason", in_one_line(told.reason)),
        ("since", instant(told.timestamp_ms)),
        ("received", f"{in_one_line(told.topic)} partition {told.partition} offset {told.offset}"),
    ]
    rows += [("cut", f"only its beginnings are here: {in_one_line(told.cut)}")] if told.cut else []
    rows += [("note", in_one_line(note))] if note else []
    yield from aligned(rows, right=())
    yield ""
    yield f"key      {payload.in_short(record.key, full=full)}"
    yield f"headers  {len(masked.headers) or 'none'}"
    for name, given in masked.headers:
        yield f"  {in_one_line(name)}: {payload.in_short(given, full=full)}"
    yield f"value    {value.kind}{'' if value.kind == 'null' else f', {len(value.raw):,} bytes'}"
    if value.kind != "null":
        yield from (f"  {line}" for line in payload.as_lines(value, full=full))
