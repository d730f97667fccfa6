"""The incarnation marker: one reserved record in each changelog partition, by which a worker knows its state.

`init` writes it when it creates the topics and never again.  A worker compares it with what its local store was built
from: topics deleted and created anew carry another incarnation, and state of the former one must not survive in them.
It also names the format of the rows, so that a worker that is too old refuses before it has touched anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from dlq_stream.core.errors import DLQError, UnsupportedFormat
from dlq_stream.tables.codec import MAJOR

MARKER_KEY = b"\x00incarnation"
"""Reserved in every changelog.  No table has such a key: ids take 16 bytes, attempts 20, and no queue holds a NUL."""


@dataclass(frozen=True, slots=True)
class Marker:
    """Which life of which app's topics this is, and the major version of the rows in them."""

    incarnation: str
    app_id: str
    format: int = MAJOR


def encode(marker: Marker) -> bytes:
    """The marker record's value."""
    return json.dumps({"incarnation": marker.incarnation, "format": marker.format, "app_id": marker.app_id}).encode()


def decode(value: bytes | None) -> Marker:
    """The marker in a record's value; raises `UnsupportedFormat` where its rows are of another major version."""
    try:
        fields = json.loads(value or b"")
        marker = Marker(str(fields["incarnation"]), str(fields["app_id"]), int(fields["format"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DLQError(f"the incarnation marker {value!r:.80} of a changelog is not one: {error!r}") from error
    if marker.format != MAJOR:
        raise UnsupportedFormat(
            f"the changelogs of {marker.app_id!r} hold rows of format {marker.format}, this version of dlq-stream"
            f" reads {MAJOR}: upgrade this worker"
        )
    return marker
