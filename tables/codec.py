"""How a row becomes bytes: one byte major version, one byte minor version, then a msgpack array of the row's fields.

An array instead of a map: rows are small and many, and names would be half of them.  So fields are only ever added at
the end, with a default, which is a new minor version; anything else is a new major one.

* The same or an earlier minor version is read at once; fields it lacks take their defaults.
* A newer minor version is read too.  Its fields that this version does not know travel along, through
  `msgspec.structs.replace`, and are written back: during a rolling upgrade an old worker does not undo a new one's
  work.  That is why the engine makes a row from its predecessor and never anew.
* Another major version raises `UnsupportedFormat`: this worker is too old, and touches nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from dlq_stream.core.errors import DLQError, UnsupportedFormat

MAJOR = 1
"""The major version of every row; the incarnation marker names it, so that a worker refuses before it reads any."""

RowT = TypeVar("RowT", bound=msgspec.Struct)


class UndecodableRow(DLQError):
    """The bytes of a row are not what any version of this package wrote."""


class Codec(Generic[RowT]):
    """Encodes and decodes rows of one type, a frozen ``array_like`` struct of flat fields."""

    def __init__(self, row: type[RowT], minor: int = 0, major: int = MAJOR) -> None:
        self._row = row
        self._major = major
        self._prefix = bytes((major, minor))
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode: Callable[[Any], RowT] = msgspec.msgpack.Decoder(row).decode
        self._fields = row.__struct_fields__
        self._newer: Any = msgspec.defstruct(
            f"Newer{row.__name__}",
            [("minor", int, 0), ("tail", tuple[Any, ...], ())],
            bases=(row,),
            module=row.__module__,
            frozen=True,
            array_like=True,
        )

    def encode(self, row: RowT) -> bytes:
        """The row's bytes; a row read from a newer minor version keeps that version and its unknown fields."""
        if type(row) is self._row:
            return self._prefix + self._encode(row)
        newer = cast(Any, row)
        values = [getattr(row, name) for name in self._fields]
        return bytes((self._major, newer.minor)) + self._encode([*values, *newer.tail])

    def decode(self, raw: bytes) -> RowT:
        """The row.  Raises `UnsupportedFormat` on another major version, `UndecodableRow` on bytes without sense."""
        try:
            if raw[0] == self._major and raw[1] <= self._prefix[1]:
                return self._decode(memoryview(raw)[2:])
            self._check(raw)
            return self._decode_newer(raw)
        except (msgspec.DecodeError, IndexError) as error:  # a ValidationError is a DecodeError
            raise UndecodableRow(f"a {self._row.__name__} row of {len(raw)} bytes does not decode: {error}") from error

    def _check(self, raw: bytes) -> None:
        if raw[0] != self._major:
            raise UnsupportedFormat(
                f"a {self._row.__name__} row has format {raw[0]}.{raw[1]}, this version of dlq-stream reads"
                f" {self._major}.x: upgrade this worker"
            )

    def _decode_newer(self, raw: bytes) -> RowT:
        body = memoryview(raw)[2:]
        known = self._decode(body)
        tail = msgspec.msgpack.decode(body)[len(self._fields) :]
        values = {name: getattr(known, name) for name in self._fields}
        return cast(RowT, self._newer(**values, minor=raw[1], tail=tuple(tail)))
