"""What a report says, and which message it belongs to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.client.delivery import Delivery, delivery_of
from dlq_stream.client.errors import UnusableRecord
from dlq_stream.client.report import Report, Reporting
from dlq_stream.core import headers as names
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.header_values import metadata_bytes_max
from dlq_stream.core.headers import parse_failure
from dlq_stream.core.ids import message_id
from dlq_stream.core.model import ErrorCategory, Headers, Origin

NOW_MS = 1_800_000_000_000
GROUP = "heat-agents"


@dataclass
class Read:
    """A record as a consumer of bytes has it."""

    topic: str = "heat-processing"
    partition: int = 3
    offset: int = 81
    timestamp: int = 1_700_000_000_000
    key: Any = b"FRN-01"
    value: Any = b"{}"
    headers: Any = field(default=())


def report(record: Read, error: object = None, *, group: str = GROUP, outcomes: bool = True, **given: Any) -> Report:
    options = {"queue": None, "category": None, "metadata": None, "now_ms": NOW_MS} | given
    return Reporting(group, outcomes).report(record, error or ValueError("odd"), **options)


def sent(made: Report) -> Read:
    """The report as the worker reads it."""
    return Read("dlq-stream-failures", 0, 7, NOW_MS + 1, made.key, made.value, made.headers)


def retried(made: Report, attempt: int, *more: tuple[str, bytes | None], group: str = GROUP) -> Read:
    """A retry of what was reported, as a worker emits it."""
    event = parse_failure(sent(made))
    own = {
        names.MESSAGE_ID: made.key,
        names.ATTEMPT: b"%d" % attempt,
        names.GROUP: group.encode(),
        names.QUEUE: event.kind.queue.encode(),
        names.ORIGINAL_TOPIC: event.origin.topic.encode(),
        names.ORIGINAL_PARTITION: b"%d" % (event.origin.partition or 0),
        names.ORIGINAL_OFFSET: b"%d" % (event.origin.offset or 0),
        names.ORIGINAL_TIMESTAMP: b"%d" % (event.origin.timestamp or 0),
        names.ERROR_TYPE: b"Old",
        names.ERROR_STACKTRACE: b"old frames",
    }
    headers = (*event.headers, *own.items(), *more)
    return Read(offset=5_000, timestamp=NOW_MS + 60_000, key=event.key, value=event.value, headers=headers)


def test_a_first_failure_says_everything() -> None:
    """The worker reads back what happened, where, and to whom."""
    record = Read(headers=(("hop", b"a"), ("hop", None), ("x", b"\xff")))
    made = report(record, TimeoutError("no answer"), metadata={"agent_id": "gl_010"})
    event = parse_failure(sent(made))
    origin = Origin("heat-processing", 3, 81, 1_700_000_000_000)
    assert event.id == message_id(GROUP, origin)
    assert made.message_id == event.id.hex()
    kind = event.kind
    assert (event.origin, kind.attempt, kind.group, kind.queue) == (origin, 0, GROUP, "heat-processing")
    assert (event.key, event.value, event.headers) == (record.key, record.value, record.headers)
    assert event.kind.error_types == ("TimeoutError", "OSError", "Exception")
    assert (event.error_message, event.error_stacktrace) == ("no answer", b"TimeoutError: no answer")
    assert (event.failed_at, event.kind.outcomes_reported) == (NOW_MS, True)
    assert json.loads(event.metadata or b"") == {"agent_id": "gl_010"}


def test_silence_about_outcomes_is_said_by_silence() -> None:
    """Without outcomes the header is absent."""
    assert not parse_failure(sent(report(Read(), outcomes=False))).kind.outcomes_reported


def test_the_same_failure_twice_is_one_message() -> None:
    """And another offset, timestamp or group is another one."""
    ids = [
        report(Read()).message_id,
        report(Read(offset=82)).message_id,
        report(Read(timestamp=5)).message_id,
        report(Read(), group="others").message_id,
    ]
    assert report(Read(), KeyError("else"), queue="q").message_id == ids[0]
    assert len(set(ids)) == 4


def test_the_next_failure_of_a_retry_continues_its_message() -> None:
    """Same id, the retry's attempt, the original's origin, the message's queue, none of the old error."""
    first = report(Read(headers=(("hop", b"a"), ("hop", b"b"))), queue="furnaces")
    second = report(retried(first, 2, (names.RETRY_TOPIC, b"heat-later")), KeyError("now this"))
    event = parse_failure(sent(second))
    assert second.message_id == first.message_id
    assert (event.kind.attempt, event.kind.queue, event.kind.retry_topic) == (2, "furnaces", "heat-later")
    assert event.origin == parse_failure(sent(first)).origin
    assert event.headers == (("hop", b"a"), ("hop", b"b"))
    assert event.kind.error_types[0] == "KeyError"
    assert b"old frames" not in event.error_stacktrace
    own = [name for name, _ in second.headers if name in names.OWN_HEADERS]
    assert len(own) == len(set(own))


def test_another_groups_failure_of_a_retry_is_its_own() -> None:
    """Its id follows from the origin, so a second retry that it sees adds nothing; its attempt is 0."""
    first = report(Read(), queue="furnaces")
    theirs = report(retried(first, 1), group="others")
    event = parse_failure(sent(theirs))
    assert event.id == message_id("others", Origin("heat-processing", 3, 81, 1_700_000_000_000))
    assert (event.kind.attempt, event.kind.queue, event.kind.group) == (0, "heat-processing", "others")
    assert report(retried(first, 2), group="others").message_id == theirs.message_id


def test_a_retry_that_had_no_room_for_its_origin_is_not_taken_for_a_record_of_its_own() -> None:
    """Its failure names the topic and no coordinates, which agree with the message's."""
    first = report(Read())
    bare = retried(first, 1)
    kept = (names.MESSAGE_ID, names.ATTEMPT, names.GROUP, names.QUEUE)
    bare.offset, bare.headers = 99, tuple(header for header in bare.headers if header[0] in kept)
    event = parse_failure(sent(report(bare)))
    assert (event.id.hex(), event.kind.attempt, event.origin) == (first.message_id, 1, Origin("heat-processing"))


def test_an_origin_without_numbers_stays_without() -> None:
    """The id then follows from where the record was read, and the origin names the topic alone."""
    made = report(Read(headers=((names.ORIGINAL_TOPIC, b"elsewhere"),)))
    event = parse_failure(sent(made))
    assert event.origin == Origin("elsewhere")
    assert event.id == message_id(GROUP, Origin("heat-processing", 3, 81, 1_700_000_000_000))


@pytest.mark.parametrize(
    "forged",
    [
        [(names.MESSAGE_ID, b"not an id"), (names.ATTEMPT, b"1"), (names.GROUP, GROUP.encode())],
        [(names.MESSAGE_ID, b"0" * 32), (names.ATTEMPT, b"-1"), (names.GROUP, GROUP.encode())],
        [(names.MESSAGE_ID, b"0" * 32), (names.ATTEMPT, b"0"), (names.GROUP, GROUP.encode())],
        [(names.MESSAGE_ID, b"0" * 32), (names.GROUP, GROUP.encode())],
        [(names.MESSAGE_ID, None), (names.ATTEMPT, None)],
        [(names.ORIGINAL_TOPIC, b"../../etc"), (names.ORIGINAL_OFFSET, b"1")],
        [(names.ORIGINAL_TOPIC, b"t"), (names.ORIGINAL_OFFSET, b"1")],
        [(names.ORIGINAL_TOPIC, b"t"), (names.ORIGINAL_PARTITION, b"1"), (names.ORIGINAL_OFFSET, b"9" * 30)],
    ],
)
def test_headers_that_make_no_sense_count_as_absent(forged: list[tuple[str, bytes | None]]) -> None:
    """Anybody may write them."""
    record = Read(headers=tuple(forged))
    assert delivery_of(record, GROUP) is None
    assert report(record).message_id == report(Read()).message_id
    parse_failure(sent(report(record)))


@pytest.mark.parametrize(("header", "group", "ours"), [(b"a", "a", True), (b"b", "a", False), (None, "a", False)])
def test_a_delivery_knows_whom_it_is_for(header: bytes | None, group: str, ours: bool) -> None:
    """By the group it names, if it names one; of repeated headers the last counts."""
    headers: Headers = (
        (names.MESSAGE_ID, b"A" * 32),
        (names.ATTEMPT, b"9"),
        (names.ATTEMPT, b"2"),
        (names.GROUP, header),
    )
    assert delivery_of(Read(headers=headers), group) == Delivery("a" * 32, 2, ours, for_another_group=header == b"b")


def test_a_null_key_is_told_from_no_key() -> None:
    """The header is there, and null; on the failures topic the key is the id."""
    made = report(Read(key=None, value=None))
    assert (names.ORIGINAL_KEY, None) in made.headers
    assert parse_failure(sent(made)).key is None
    assert made.value is None


@given(
    key=st.none() | st.binary(max_size=40),
    value=st.none() | st.binary(max_size=40),
    user=st.lists(st.tuples(st.sampled_from(["a", "b", "dlq-x", "é"]), st.none() | st.binary(max_size=9)), max_size=6),
    text=st.text(st.characters(exclude_categories=()), max_size=50),
)
def test_whatever_the_bytes_the_original_stays_untouched(
    key: bytes | None, value: bytes | None, user: list[tuple[str, bytes | None]], text: str
) -> None:
    """Key, value and the user's headers, order and repeats included, over two hops."""
    first = report(Read(key=key, value=value, headers=user), ValueError(text))
    for made in (first, report(retried(first, 1), KeyError(text))):
        event = parse_failure(sent(made))
        assert (event.key, event.value, event.headers) == (key, value, tuple(user))


def test_buffers_are_bytes_and_objects_are_not() -> None:
    """A consumer with deserializers has no bytes to keep; the error says so."""
    made = report(Read(key=bytearray(b"k"), value=memoryview(b"v")))
    assert parse_failure(sent(made)).key == b"k"
    assert made.value == b"v"
    for wrong in (Read(value={"a": 1}), Read(key="text"), Read(headers=[("h", 5)])):
        with pytest.raises(UnusableRecord, match=r"not bytes.*without deserializers"):
            report(wrong)


def test_what_the_system_would_not_take_is_refused_here() -> None:
    """A queue or a category with a typo is the caller's mistake, not the record's."""
    with pytest.raises(ConfigurationError, match="queue"):
        report(Read(), queue="a\nb")
    with pytest.raises(ConfigurationError, match="category: 'fatal' is not one of transient"):
        report(Read(), category="fatal")
    event = parse_failure(sent(report(Read(), category="permanent")))
    assert event.kind.category is ErrorCategory.PERMANENT


@pytest.mark.parametrize("value", [float("nan"), "x" * metadata_bytes_max, {1, 2}, object()])
def test_metadata_never_costs_the_report(value: object) -> None:
    """It is written as well as it can be, or replaced by a note."""
    raw = parse_failure(sent(report(Read(), metadata={"odd": value, "ok": 1}))).metadata
    assert raw is not None
    assert {"dropped", "ok"} & set(json.loads(raw))


def test_cyclic_metadata_is_dropped_with_a_note() -> None:
    """json gives up on it."""
    knot: dict[str, Any] = {}
    knot["self"] = knot
    assert "not JSON" in json.loads(parse_failure(sent(report(Read(), metadata=knot))).metadata or b"")["dropped"]


def test_the_stack_trace_goes_first() -> None:
    """And nothing else."""
    made = report(Read())
    smaller = made.without_stacktrace()
    assert {name for name, _ in made.headers} - {name for name, _ in smaller.headers} == {names.ERROR_STACKTRACE}
