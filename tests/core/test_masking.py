"""What is hidden, what is not, and that nothing else changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core import headers as names
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.masking import MASK, Masking, mask, mask_headers, pointer_steps_max, secrets_in, steps_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
STEPS = st.lists(st.text(max_size=4) | st.integers(0, 5).map(str), max_size=4)


def pointer_of(steps: list[str]) -> str:
    return "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in steps)


def expected(value: Any, steps: list[str]) -> Any:
    """Masking as one would write it for parsed JSON."""
    if not steps:
        return MASK
    first, *rest = steps
    if isinstance(value, dict) and first in value:
        return value | {first: expected(value[first], rest)}
    if isinstance(value, list) and first in map(str, range(len(value))):
        return [expected(each, rest) if str(n) == first else each for n, each in enumerate(value)]
    return value


def test_the_rest_stays_byte_for_byte() -> None:
    """Spaces, escapes, digits and order of fields are the sender's."""
    value = b'{ "card" : {"number":"4111","cvc":123} ,\n"caf\\u00e9":1.50E+2, "list":[ 1,\t{"iban":"x"} ] }'
    hidden = mask(value, ["/card/number", "/list/1/iban", "/card/cvc", "/list/7", "/nowhere/at/all"])
    assert hidden == value.replace(b'"4111"', b'"***"').replace(b"123", b'"***"').replace(b'"x"', b'"***"')


@pytest.mark.parametrize(
    ("pointer", "hidden"),
    [
        ("", '"***"'),
        ("/", '{"a/b":{"~":1},"":"***","n":[10,20]}'),
        ("/a~1b/~0", '{"a/b":{"~":"***"},"":2,"n":[10,20]}'),
        ("/a~1b", '{"a/b":"***","":2,"n":[10,20]}'),
        ("/n/1", '{"a/b":{"~":1},"":2,"n":[10,"***"]}'),
        ("/n/01", '{"a/b":{"~":1},"":2,"n":[10,20]}'),
        ("/n/-", '{"a/b":{"~":1},"":2,"n":[10,20]}'),
        ("/n/1/x", '{"a/b":{"~":1},"":2,"n":[10,20]}'),
    ],
)
def test_pointers_are_those_of_the_rfc(pointer: str, hidden: str) -> None:
    """RFC 6901: escapes, the empty name, indexes without leading zeros, nothing behind a scalar."""
    value = b'{"a/b":{"~":1},"":2,"n":[10,20]}'
    assert mask(value, [pointer]) == hidden.encode()


@pytest.mark.parametrize("pointer", ["card", "/a~", "/a~2", "#/a", "/x" * (pointer_steps_max + 1), None, 5])
def test_what_is_no_pointer_is_refused(pointer: Any) -> None:
    """Where it is written, and not by hiding nothing."""
    with pytest.raises(ConfigurationError, match="mask_pointers"):
        Masking(pointers=(pointer,))


@given(JSON, st.lists(STEPS, max_size=4))
def test_any_payload_is_masked_as_its_parsed_form_would_be(value: Any, pointers: list[list[str]]) -> None:
    """For any payload and any pointers; twice is once; and a payload without any of it is untouched."""
    raw = json.dumps(value).encode()
    texts = [pointer_of(steps) for steps in pointers]
    once = mask(raw, texts)
    assert once is not None
    # A pointer is applied after those that end before it: inside what is hidden there is nothing more to find.
    for steps in sorted(pointers, key=len):
        value = expected(value, steps)
    assert json.dumps(json.loads(once)) == json.dumps(value)
    assert mask(once, texts) == once
    assert [steps_of(text) for text in texts] == [tuple(steps) for steps in pointers]


@given(st.binary(max_size=60), st.lists(STEPS, min_size=1, max_size=3))
def test_bytes_of_any_kind_never_raise_nor_leave_whole(value: bytes, pointers: list[list[str]]) -> None:
    """What is no JSON is hidden whole; what is empty hides nothing."""
    hidden = mask(value, [pointer_of(steps) for steps in pointers])
    try:
        json.loads(value.decode())
    except ValueError:
        assert hidden == (MASK.encode() if value else b"")


@pytest.mark.parametrize(
    "value",
    [
        b"\x00\x01avro",
        b'{"card":"4111","card":1}',
        b'{"a":[{"b":1,"b":2}]}',
        b'{"card":"4',
        "[1]".encode("utf-16"),
        b"[" * 100_000 + b"]" * 100_000,
    ],
)
def test_what_pointers_cannot_be_applied_to_is_hidden_whole(value: bytes) -> None:
    """A field that is given twice could hide its first value from us and not from the next reader."""
    assert mask(value, ["/card"]) == b"***"
    assert mask(value, []) == value
    assert mask(None, ["/card"]) is None


def test_numbers_of_any_length_are_json() -> None:
    """Python refuses to make an integer of more than 4,300 digits."""
    digits = b"9" * 5_000
    assert mask(b'{"n":' + digits + b',"card":1}', ["/card"]) == b'{"n":' + digits + b',"card":"***"}'


def test_headers_are_hidden_by_name() -> None:
    """In any case, repeats included; null stays null, and the system's own are not the user's."""
    headers = (
        ("Authorization", b"Bearer x"),
        ("hop", b"1"),
        ("x-token", None),
        ("X-Token", b"\xff"),
        (names.MESSAGE_ID, b"0" * 32),
        (names.MASKED, b"value"),
    )
    assert mask_headers(headers, ["authorization", "x-*", "dlq-*"]) == (
        ("Authorization", b"***"),
        ("hop", b"1"),
        ("x-token", None),
        ("X-Token", b"***"),
        (names.MESSAGE_ID, b"0" * 32),
        (names.MASKED, b"value"),
    )
    with pytest.raises(ConfigurationError, match="mask_headers"):
        Masking(("",))


def test_what_was_hidden_is_not_told_elsewhere() -> None:
    """Neither as it is nor as an error or JSON quotes it; what is short would take too much with it."""
    masking = Masking(("token",), ("/card", "/pin", "/name", "/amount"))
    value = '{"card":{"number":"4111 1111","by":["Müller\\n"]},"pin":"12","name":"O\'Neil","amount":1500.5}'.encode()
    masked = masking.apply((("token", b"s3cret"),), value)
    assert (masked.parts, bool(masked.secrets)) == (("headers", "value"), True)
    told = masked.secrets.hide(f"{'4111 1111'!r}, {'Müller' + chr(10)!r}, s3cret, O'Neil, 12, 1500.5")
    assert told == f"{MASK!r}, {MASK!r}, {MASK}, {MASK}, 12, {MASK}"
    metadata = json.dumps({"s3cret": [1500.5, 12, True, None], "who": "Müller\n et al."}).encode()
    assert json.loads(masked.secrets.hide_in_json(metadata)) == {MASK: [MASK, 12, True, None], "who": f"{MASK} et al."}


def test_nothing_to_hide_changes_nothing() -> None:
    """Not even what metadata looks like."""
    masked = Masking().apply((("a", b"1"),), b"{}")
    assert masked == ((("a", b"1"),), b"{}", (), secrets_in([]))
    assert not Masking()
    assert masked.secrets.hide_in_json(b'{ "a": 1 }') == b'{ "a": 1 }'
