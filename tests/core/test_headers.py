"""Failure events: what is read from them, and that nothing in them does harm."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core import header_values as values
from dlq_stream.core import headers as names
from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.headers import OWN_HEADERS, FailureEvent, FailureKind, fault_of, parse_failure
from dlq_stream.core.ids import message_id
from dlq_stream.core.model import ErrorCategory, Headers, Origin
from tests.core.received import HEADER_VALUES, HEADERS, USER_HEADERS, Received

ID = bytes(range(16))
HEX = ID.hex().encode()
FULL: Headers = (
    (names.MESSAGE_ID, HEX),
    (names.QUEUE, "wärme".encode()),
    (names.ATTEMPT, b"2"),
    (names.ORIGINAL_TOPIC, b"heat-processing"),
    (names.ORIGINAL_PARTITION, b"3"),
    (names.ORIGINAL_OFFSET, b"81"),
    (names.ORIGINAL_TIMESTAMP, b"1700000000000"),
    (names.ORIGINAL_KEY, b"\xff furnace"),
    (names.GROUP, b"heat"),
    (names.ERROR_TYPE, b"app.SensorTimeout, builtins.TimeoutError,, "),
    (names.ERROR_MESSAGE, b"no answer \xff"),
    (names.ERROR_STACKTRACE, b"Traceback \xff"),
    (names.ERROR_CAUSE_TYPE, b"builtins.OSError,builtins.Exception"),
    (names.CATEGORY, b"TRANSIENT"),
    (names.FAILED_AT, b"1700000000001"),
    (names.OUTCOMES, b"reported"),
    (names.RETRY_TOPIC, b"heat-processing-mine"),
    (names.RETRY_AFTER_MS, b"5000"),
    (names.FORWARDED, b"1"),
    (names.METADATA, b'{"furnace": 7}'),
)
POOR: Headers = ((names.ORIGINAL_TOPIC, b"heat"),)


def parsed(*headers: tuple[str, bytes | None], base: Headers = POOR) -> FailureEvent:
    return parse_failure(Received(headers=base + headers))


def test_everything_that_an_event_can_say() -> None:
    """Each header ends up in its field, and the user's headers stay as they were, in order and with repeats."""
    user: Headers = (("trace", b"1"), ("trace", None), ("dlq-unknown", b"\xff"), ("", b""))
    record = Received(key=HEX, headers=(*user[:2], *FULL, *user[2:]))
    assert parse_failure(record) == FailureEvent(
        id=ID,
        kind=FailureKind(
            topic="heat-processing",
            queue="wärme",
            group="heat",
            attempt=2,
            error_types=("app.SensorTimeout", "builtins.TimeoutError"),
            cause_types=("builtins.OSError", "builtins.Exception"),
            category=ErrorCategory.TRANSIENT,
            outcomes_reported=True,
            retry_topic="heat-processing-mine",
            forwarded=True,
        ),
        origin=Origin("heat-processing", 3, 81, 1_700_000_000_000),
        key=b"\xff furnace",
        value=b"value",
        headers=user,
        error_message="no answer �",
        error_stacktrace=b"Traceback \xff",
        failed_at=1_700_000_000_001,
        retry_after_ms=5000,
        metadata=b'{"furnace": 7}',
    )


def test_the_least_that_an_event_can_say() -> None:
    """The original topic alone; everything else has a default, and the id follows from the record's own place."""
    record = Received(headers=POOR)
    assert parse_failure(record) == FailureEvent(
        id=message_id("", Origin(record.topic, record.partition, record.offset, record.timestamp)),
        kind=FailureKind(
            topic="heat",
            queue="heat",
            group="",
            attempt=0,
            error_types=(),
            cause_types=(),
            category=None,
            outcomes_reported=False,
            retry_topic=None,
            forwarded=False,
        ),
        origin=Origin("heat"),
        key=b"key",
        value=b"value",
        headers=(),
        error_message="",
        error_stacktrace=b"",
        failed_at=None,
        retry_after_ms=None,
        metadata=None,
    )


def test_the_id_follows_from_the_origin() -> None:
    """Without an id, group and origin make it, wherever the event was written."""
    headers = tuple(header for header in FULL if header[0] != names.MESSAGE_ID)
    expected = message_id("heat", Origin("heat-processing", 3, 81, 1_700_000_000_000))
    assert parse_failure(Received(headers=headers)).id == expected
    assert parse_failure(Received(offset=99, partition=9, headers=headers)).id == expected


def test_types_and_cause_are_what_classification_goes_by() -> None:
    """The error's names, then its cause's; the first of each is what people see."""
    kind = parsed(base=FULL).kind
    assert kind.types_and_cause == (*kind.error_types, "builtins.OSError", "builtins.Exception")
    assert kind.cause_type == "builtins.OSError"
    assert parsed().kind.cause_type is None
    assert parsed((names.ERROR_TYPE, b"E")).kind.types_and_cause == ("E",)


@pytest.mark.parametrize(
    ("key", "headers", "expected"),
    [
        (b"key", (), b"key"),
        (None, (), None),
        (b"", (), b""),
        (HEX, ((names.MESSAGE_ID, HEX),), None),
        (HEX.upper(), ((names.MESSAGE_ID, HEX),), None),
        (HEX, ((names.MESSAGE_ID, b"0" * 32),), HEX),
        (b"x" * 32, ((names.MESSAGE_ID, HEX),), b"x" * 32),
        (HEX, ((names.MESSAGE_ID, HEX), (names.ORIGINAL_KEY, b"k")), b"k"),
        (HEX, ((names.MESSAGE_ID, HEX), (names.ORIGINAL_KEY, b"")), b""),
        (b"key", ((names.ORIGINAL_KEY, None),), None),
        (b"key", ((names.ORIGINAL_KEY, b"a"), (names.ORIGINAL_KEY, None)), None),
        (b"key", ((names.ORIGINAL_KEY, None), (names.ORIGINAL_KEY, HEX)), HEX),
    ],
)
def test_the_original_key(key: bytes | None, headers: Headers, expected: bytes | None) -> None:
    """The header, where there is one, null included; else the event's own key, unless that is the id."""
    assert parse_failure(Received(key=key, headers=POOR + headers)).key == expected


def test_a_derived_id_as_key_is_no_key_either() -> None:
    """A client that derived the id itself and sent it as the key only."""
    headers = tuple(header for header in FULL if header[0] not in (names.MESSAGE_ID, names.ORIGINAL_KEY))
    derived = parse_failure(Received(headers=headers)).id
    assert parse_failure(Received(key=derived.hex().encode(), headers=headers)).key is None


def test_of_repeated_headers_the_last_counts() -> None:
    """Raw clients append instead of replacing; an earlier value is not even looked at."""
    event = parsed((names.ATTEMPT, b"nonsense"), (names.ATTEMPT, b"1"), (names.ATTEMPT, b"3"))
    assert event.kind.attempt == 3
    assert event.headers == ()


def test_a_null_value_is_as_good_as_no_header() -> None:
    """For every header but the original key, and even where the last of several is null."""
    kept = (names.ORIGINAL_TOPIC, names.ORIGINAL_KEY)
    event = parsed(*((name, None) for name, _ in FULL if name not in kept), base=FULL)
    kind = parsed().kind._replace(topic="heat-processing", queue="heat-processing")
    assert event == parsed()._replace(id=event.id, kind=kind, origin=event.origin, key=b"\xff furnace")


@pytest.mark.parametrize("headers", [(), ((names.ORIGINAL_TOPIC, None),), (*POOR, (names.ORIGINAL_TOPIC, None))])
def test_the_original_topic_is_required(headers: Headers) -> None:
    """Without it nobody knows where a retry should go."""
    with pytest.raises(MalformedEvent, match=r"^dlq-original-topic: missing"):
        parse_failure(Received(headers=headers))


_ORIGIN = ((names.ORIGINAL_PARTITION, b"1"), (names.ORIGINAL_OFFSET, b"2"), (names.ORIGINAL_TIMESTAMP, b"3"))


@pytest.mark.parametrize("present", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_a_partial_origin_is_malformed(present: tuple[int, ...]) -> None:
    """All three numbers or none; the first that is missing is named."""
    missing = next(name for position, (name, _) in enumerate(_ORIGIN) if position not in present)
    with pytest.raises(MalformedEvent, match=f"^{missing}: missing"):
        parsed(*(_ORIGIN[position] for position in present))


def test_kafkas_no_timestamp() -> None:
    """-1 is what Kafka gives for a record that has none, and the only negative number there is."""
    assert parsed(*_ORIGIN[:2], (names.ORIGINAL_TIMESTAMP, b"-1")).origin == Origin("heat", 1, 2, -1)


_NUMBERS = {
    names.ATTEMPT: names.attempt_max,
    names.FAILED_AT: names.time_ms_max,
    names.RETRY_AFTER_MS: names.retry_after_ms_max,
    names.ORIGINAL_PARTITION: names.partition_max,
    names.ORIGINAL_OFFSET: names.number_max,
    names.ORIGINAL_TIMESTAMP: names.number_max,
}
_NO_NUMBERS = [b"", b" ", b"-1", b"+1", b"1 ", b" 1", b"1_000", b"1.0", b"1e3", b"0x1", b"\xff", b"1\0", b"nan", b"-0"]
_NO_NUMBERS += ["٣".encode(), "１".encode(), b"9" * 20, b"9" * 5000, b"-9" * 20]


@pytest.mark.parametrize("name", _NUMBERS)
@pytest.mark.parametrize("raw", _NO_NUMBERS)
def test_numbers_are_ascii_digits(name: str, raw: bytes) -> None:
    """int() takes signs, spaces, underscores and other scripts' digits; this does not."""
    if name == names.ORIGINAL_TIMESTAMP and raw == b"-1":
        return
    with pytest.raises(MalformedEvent, match=f"^{name}: ") as caught:
        parsed(*_ORIGIN, (name, raw))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("name", "most"), _NUMBERS.items())
def test_bounds_of_numbers(name: str, most: int) -> None:
    """The bound itself is taken, leading zeros too, one more is not, and the error says so."""
    parsed(*_ORIGIN, (name, b"0"), (name, str(most).encode()))
    parsed(*_ORIGIN, (name, b"00"))
    with pytest.raises(MalformedEvent, match=f"^{name}: b'{most + 1}' is not a decimal number from 0 to {most}$"):
        parsed(*_ORIGIN, (name, str(most + 1).encode()))


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        (names.ORIGINAL_TOPIC, b""),
        (names.ORIGINAL_TOPIC, b"a b"),
        (names.ORIGINAL_TOPIC, b".."),
        (names.ORIGINAL_TOPIC, b"x" * 250),
        (names.ORIGINAL_TOPIC, b"\xff"),
        (names.ORIGINAL_TOPIC, "ü".encode()),
        (names.RETRY_TOPIC, b""),
        (names.RETRY_TOPIC, b"a/b"),
        (names.QUEUE, b""),
        (names.QUEUE, b"a\0b"),
        (names.QUEUE, b"a\nb"),
        (names.QUEUE, b"\xff"),
        (names.QUEUE, b"x" * (values.queue_bytes_max + 1)),
        (names.GROUP, b"\xff"),
        (names.GROUP, b"x" * (values.group_bytes_max + 1)),
        (names.MESSAGE_ID, b""),
        (names.MESSAGE_ID, b"0" * 31),
        (names.MESSAGE_ID, b"g" * 32),
        (names.MESSAGE_ID, b"0" * 1_000_000),
        (names.CATEGORY, b""),
        (names.CATEGORY, b"sometimes"),
        (names.CATEGORY, b"\xff"),
        (names.OUTCOMES, b""),
        (names.OUTCOMES, b"Reported"),
        (names.FORWARDED, b"0"),
        (names.FORWARDED, b"true"),
        (names.METADATA, b"x" * (values.metadata_bytes_max + 1)),
    ],
)
def test_what_steers_is_checked(name: str, raw: bytes) -> None:
    """The error names the header and shows no more than a piece of its value."""
    with pytest.raises(MalformedEvent) as caught:
        parsed((name, raw))
    assert fault_of(caught.value) == name
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("raw", [b"", b"x" * values.group_bytes_max, "grüppe".encode(), b"a\nb"])
def test_groups(raw: bytes) -> None:
    """Kafka knows no rules for groups, so any text is one; empty means none."""
    assert parsed((names.GROUP, raw)).kind.group == raw.decode()


@pytest.mark.parametrize("raw", [b"transient", b"TRANSIENT", b"Transient"])
def test_categories_in_either_case(raw: bytes) -> None:
    """The documents write them in capitals."""
    assert parsed((names.CATEGORY, raw)).kind.category is ErrorCategory.TRANSIENT


def test_descriptions_are_cut() -> None:
    """A megabyte of error is no reason to refuse the event, nor to keep all of it."""
    event = parsed(
        (names.ERROR_MESSAGE, "ä".encode() * 10**6),
        (names.ERROR_TYPE, b"E," * 10**6),
        (names.ERROR_CAUSE_TYPE, b"C" * 10**6),
        (names.ERROR_STACKTRACE, b"start" + b"x" * 10**6 + b"end"),
    )
    assert event.error_message == "ä" * values.error_message_chars_max
    assert event.kind.error_types == ("E",) * values.error_types_max
    assert event.kind.cause_types == ("C" * values.error_types_bytes_max,)
    assert values.error_stacktrace_bytes_max - 1 <= len(event.error_stacktrace) <= values.error_stacktrace_bytes_max
    assert event.error_stacktrace.startswith(b"startx")
    assert event.error_stacktrace.endswith(b"xend")
    assert b"x\n[...]\nx" in event.error_stacktrace


def test_a_stack_trace_at_its_bound_is_left_alone() -> None:
    """Nothing is cut that fits."""
    trace = b"x" * values.error_stacktrace_bytes_max
    assert values.cap_stacktrace(trace) is trace


@given(HEADERS, st.none() | st.binary(max_size=40), st.sampled_from([(), POOR, FULL]))
def test_any_bytes_are_an_event_or_malformed(headers: Headers, key: bytes | None, base: Headers) -> None:
    """Nothing but MalformedEvent is ever raised, and what passes keeps to every bound."""
    with suppress(MalformedEvent):
        event = parse_failure(Received(key=key, headers=base + headers))
        assert len(event.id) == 16
        assert 0 < len(event.kind.queue.encode()) <= values.queue_bytes_max
        assert "\0" not in event.kind.queue
        assert len(event.kind.group.encode()) <= values.group_bytes_max
        assert 0 <= event.kind.attempt <= names.attempt_max
        assert len(event.error_message) <= values.error_message_chars_max
        assert len(event.kind.error_types) <= values.error_types_max
        numbers = (event.origin.partition, event.origin.offset, event.origin.timestamp)
        assert len({number is None for number in numbers}) == 1
        assert [header for header in headers if header[0] not in OWN_HEADERS] == list(event.headers)
        ",".join(event.kind.error_types).encode()
        event.error_message.encode()


@given(st.sampled_from(sorted(OWN_HEADERS)), HEADER_VALUES | st.binary(max_size=300))
def test_any_value_of_any_header(name: str, raw: bytes | None) -> None:
    """One header at a time, on an event that is otherwise right."""
    wrong = ""
    try:
        parse_failure(Received(headers=(*FULL, (name, raw))))
    except MalformedEvent as error:
        wrong = str(error)
    assert not wrong or name in wrong
    assert len(wrong) < 250


@given(USER_HEADERS)
def test_user_headers_are_untouched(user: Headers) -> None:
    """Order, repeats, null and empty values; a prefix is not a claim."""
    assert parse_failure(Received(headers=POOR + user)).headers == user


def test_what_repeats_is_read_once() -> None:
    """Two failures of a kind share it, so that whoever groups them compares one object with itself."""
    first, second = parsed((names.MESSAGE_ID, b"0" * 32), base=FULL), parsed((names.MESSAGE_ID, b"1" * 32), base=FULL)
    assert first.id != second.id
    assert first.kind is second.kind


def test_a_kind_is_remembered_at_its_bounds() -> None:
    """Of a list of error types only what is kept is remembered, whatever a sender writes behind it."""
    long = b"E" * values.error_types_bytes_max
    assert parsed((names.ERROR_TYPE, long + b"1")).kind is parsed((names.ERROR_TYPE, long + b"2")).kind


def test_the_record_is_not_changed() -> None:
    """What was received is somebody else's."""
    headers = (*FULL, ("a", b"b"))
    record = Received(headers=headers)
    parse_failure(record)
    assert record == Received(headers=(*FULL, ("a", b"b")))


def test_all_names_are_known() -> None:
    """Every dlq- name of the module is a name of the contract, or the one that stays with the record."""
    named = {value for value in vars(names).values() if isinstance(value, str) and value.startswith("dlq-")}
    assert named == OWN_HEADERS | {names.MASKED}
