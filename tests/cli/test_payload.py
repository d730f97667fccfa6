"""Payloads as JSON, text or hex: exact for programs, harmless and bounded for people."""

from __future__ import annotations

import json
import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.cli.payload import BYTES_MAX, LINES_MAX, as_lines, as_object, content_of, hex_dump, in_short
from dlq_stream.cli.show import json_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ANY = st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (None, "null"),
        (b"", "text"),
        (b'{"a": 1}', "json"),
        (b"17", "json"),
        (b"NaN", "text"),
        (b"{broken", "text"),
        (b"\x00\x00\x00\x00\x2aavro", "hex"),
        (b"\xff\xfe", "hex"),
        (b"[" * 100_000, "text"),
        (b"9" * 10_000, "json"),
        ("grüße\n".encode(), "text"),
    ],
)
def test_what_bytes_are(raw: bytes | None, kind: str) -> None:
    """JSON only if it is, nested too deeply it is text; Avro's leading NUL makes hex of it."""
    assert content_of(raw).kind == kind


@given(JSON)
def test_json_is_the_same_for_programs_digit_by_digit(value: object) -> None:
    """Whatever is in it, the output is ASCII, and JSON that says the same."""
    raw = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    text = json_text(as_object(content_of(raw)))
    assert all(" " <= char <= "~" or char == "\n" for char in text)
    assert json.loads(text)["content"] == json.loads(raw)


def test_json_keeps_digits_and_repeated_fields() -> None:
    """Nothing is read and written again."""
    raw = b'{"id":12345678901234567890123,"x":1.10,"x":2}'
    assert '"id": 12345678901234567890123,' in json_text(as_object(content_of(raw)))
    assert as_lines(content_of(raw), full=True) == [
        "{", '  "id": 12345678901234567890123,', '  "x": 1.10,', '  "x": 2', "}",
    ]  # fmt: skip


@given(ANY)
def test_any_bytes_are_shown_harmlessly_and_exactly(raw: bytes) -> None:
    """To people without a control character, to programs so that they have the bytes."""
    content = content_of(raw)
    lines = [*as_lines(content, full=True), *as_lines(content, full=False), in_short(raw, full=True), *hex_dump(raw)]
    for line in lines:
        assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in line)
    told = msgspec.json.decode(json_text(as_object(content)))
    assert told["size_bytes"] == len(raw)
    if told["kind"] == "hex":
        assert bytes.fromhex(told["content"]) == raw
    elif told["kind"] == "text":
        assert told["content"].encode() == raw


@pytest.mark.parametrize("raw", [b"x" * 100_000, b"\xff" * 100_000, b"x\n" * 50_000, json.dumps([0] * 9_999).encode()])
def test_what_is_long_is_cut_and_says_so(raw: bytes) -> None:
    """Unless all was asked for."""
    content = content_of(raw)
    short, full = as_lines(content, full=False), as_lines(content, full=True)
    assert len(short) <= BYTES_MAX // 64 + 1
    assert sum(map(len, short)) < 6 * BYTES_MAX
    assert short[-1] == f"… of {len(raw):,} bytes; --full shows them all"
    assert short[:-1] == [line[: len(cut)] for cut, line in zip(short, full, strict=False)][: len(short) - 1]
    assert len(full) >= len(short) - 1
    assert LINES_MAX <= 64


def test_hex_dump() -> None:
    """As hexdump -C has it, nearly."""
    assert hex_dump(b"\x00ab\x1b" + b"c" * 13) == [
        "00000000  00 61 62 1b 63 63 63 63 63 63 63 63 63 63 63 63  |.ab.cccccccccccc|",
        "00000010  63                                               |c|",
    ]
