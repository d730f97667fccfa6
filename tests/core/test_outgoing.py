"""Headers of what is written: ours once, the user's as they came, and no more than fits."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core import headers as names
from dlq_stream.core.headers import OWN_HEADERS, parse_failure, record_size
from dlq_stream.core.model import ErrorCategory, Headers, Origin
from dlq_stream.core.outgoing import (
    DESCRIPTIVE,
    OPTIONAL,
    Facts,
    dead_letter_headers,
    emission_headers,
    failure_headers,
    fit,
    fixed_for_forwarding,
    quarantine_headers,
    quarantine_reason_chars_max,
)
from tests.core.received import HEADERS, USER_HEADERS, Received

ID = bytes(range(16))
FACTS = Facts(
    id=ID,
    queue="wärme",
    attempt=2,
    group="heat",
    origin=Origin("heat-processing", 3, 81, 1_700_000_000_000),
    error_types=("app.SensorTimeout", "TimeoutError"),
    error_message="no answer",
    error_stacktrace=b"Traceback \xff",
    cause_types=("OSError",),
    category=ErrorCategory.TRANSIENT,
    failed_at=5,
    first_failed_at=4,
    due_at=6,
    retry_topic="heat-processing-mine",
    metadata=b"{}",
)
USER: Headers = (("trace", b"1"), ("dlq-mine", None), ("trace", b"2"))

_texts = st.text(st.characters(codec="utf-8"), max_size=10)
_names = st.text("abc.-_", min_size=1, max_size=10).filter(lambda name: name not in (".", ".."))
_queues = st.text("abc äöü", min_size=1, max_size=10)
_types = st.lists(st.text("Ab.$", min_size=1, max_size=10), max_size=3).map(tuple)
_times = st.none() | st.integers(0, names.time_ms_max)
_origins = _names.map(Origin) | st.builds(
    Origin, _names, st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1), st.integers(-1, 2**63 - 1)
)
FACTS_OF_ALL_KINDS = st.builds(
    Facts,
    id=st.binary(min_size=16, max_size=16),
    queue=_queues,
    attempt=st.integers(0, names.attempt_max),
    group=_texts,
    origin=_origins,
    error_types=_types,
    error_message=_texts,
    error_stacktrace=st.binary(max_size=30),
    cause_types=_types,
    category=st.none() | st.sampled_from(ErrorCategory),
    failed_at=_times,
    first_failed_at=_times,
    due_at=_times,
    retry_topic=st.none() | _names,
    metadata=st.none() | st.binary(min_size=1, max_size=30),
)


def own(headers: Headers) -> dict[str, bytes | None]:
    """Our headers by name; each may be there once."""
    found = [header for header in headers if header[0] in OWN_HEADERS]
    assert len(found) == len(dict(found))
    return dict(found)


def test_what_says_that_a_record_was_masked_stays_with_it() -> None:
    """Like a header of the user's: through the event, the retry, and the dead letter."""
    masked = (("unit", b"***"), (names.MASKED, b"headers"))
    event = parse_failure(Received(headers=failure_headers(masked, FACTS, original_key=None)))
    assert event.headers == masked
    assert emission_headers(event.headers, FACTS)[:2] == masked
    assert dead_letter_headers(event.headers, FACTS, "no-retry")[:2] == masked


def test_a_retry() -> None:
    """The user's headers first, as they came; then all that is known."""
    headers = emission_headers(USER, FACTS)
    assert headers[:3] == USER
    assert own(headers) == {
        names.MESSAGE_ID: ID.hex().encode(),
        names.QUEUE: "wärme".encode(),
        names.ATTEMPT: b"2",
        names.GROUP: b"heat",
        names.ORIGINAL_TOPIC: b"heat-processing",
        names.ORIGINAL_PARTITION: b"3",
        names.ORIGINAL_OFFSET: b"81",
        names.ORIGINAL_TIMESTAMP: b"1700000000000",
        names.ERROR_TYPE: b"app.SensorTimeout,TimeoutError",
        names.ERROR_MESSAGE: b"no answer",
        names.ERROR_STACKTRACE: b"Traceback \xff",
        names.ERROR_CAUSE_TYPE: b"OSError",
        names.CATEGORY: b"transient",
        names.FAILED_AT: b"5",
        names.FIRST_FAILED_AT: b"4",
        names.DUE_AT: b"6",
        names.RETRY_TOPIC: b"heat-processing-mine",
        names.METADATA: b"{}",
    }


def test_a_retry_of_which_little_is_known() -> None:
    """What is not known is left out; no group is an empty one."""
    facts = Facts(id=ID, queue="q", attempt=1, group="", origin=Origin("q"))
    assert emission_headers((), facts) == (
        (names.MESSAGE_ID, ID.hex().encode()),
        (names.QUEUE, b"q"),
        (names.ATTEMPT, b"1"),
        (names.GROUP, b""),
        (names.ORIGINAL_TOPIC, b"q"),
    )


def test_a_dead_letter_says_why() -> None:
    """Everything that a retry says, and the reason."""
    headers = dead_letter_headers(USER, FACTS, "retries-exhausted")
    assert headers == (*emission_headers(USER, FACTS), (names.ESCALATION_REASON, b"retries-exhausted"))


def test_half_a_surrogate_pair_is_no_error_of_ours() -> None:
    """An exception's text may hold anything."""
    facts = Facts(id=ID, queue="q", attempt=0, group="", origin=Origin("q"), error_message="\ud800")
    assert own(emission_headers((), facts))[names.ERROR_MESSAGE] == b"\\ud800"


@given(HEADERS, FACTS_OF_ALL_KINDS)
def test_own_headers_are_replaced_never_appended(received: Headers, facts: Facts) -> None:
    """Whatever came in, each of ours goes out at most once, and every header of the user's goes out."""
    user = tuple(header for header in received if header[0] not in OWN_HEADERS)
    built = (
        emission_headers(received, facts),
        dead_letter_headers(received, facts, "r"),
        failure_headers(received, facts, original_key=None),
    )
    for headers in built:
        own(headers)
        assert headers[: len(user)] == user
        assert all(header[0] in OWN_HEADERS for header in headers[len(user) :])


@given(
    USER_HEADERS,
    FACTS_OF_ALL_KINDS,
    st.none() | st.binary(max_size=40),
    st.booleans(),
    st.none() | st.integers(0, names.retry_after_ms_max),
)
def test_a_failure_event_reads_back(
    user: Headers, facts: Facts, key: bytes | None, outcomes: bool, retry_after_ms: int | None
) -> None:
    """What a reporter says is what the worker hears."""
    headers = failure_headers(user, facts, original_key=key, outcomes_reported=outcomes, retry_after_ms=retry_after_ms)
    event = parse_failure(Received(key=facts.id.hex().encode(), headers=headers))
    kind = event.kind
    assert (event.id, kind.queue, kind.attempt, kind.group) == (facts.id, facts.queue, facts.attempt, facts.group)
    assert (event.origin, event.key, event.headers) == (facts.origin, key, user)
    assert (kind.error_types, kind.cause_types) == (facts.error_types, facts.cause_types)
    assert (event.error_message, event.error_stacktrace) == (facts.error_message, facts.error_stacktrace)
    assert (kind.category, event.failed_at, event.metadata) == (facts.category, facts.failed_at, facts.metadata)
    assert (kind.outcomes_reported, event.retry_after_ms) == (outcomes, retry_after_ms)
    assert (kind.retry_topic, kind.forwarded) == (facts.retry_topic, False)


@given(USER_HEADERS, FACTS_OF_ALL_KINDS)
def test_a_retry_that_fails_comes_back_as_the_same_message(user: Headers, facts: Facts) -> None:
    """A raw client that reports a retry with the headers it got continues the message."""
    event = parse_failure(Received(headers=emission_headers(user, facts)))
    assert (event.id, event.kind.attempt, event.kind.group) == (facts.id, facts.attempt, facts.group)
    assert (event.origin, event.kind.queue, event.headers) == (facts.origin, facts.queue, user)


@given(USER_HEADERS, st.none() | st.binary(max_size=40), st.none() | st.binary(min_size=16, max_size=16))
def test_a_forwarded_event_reads_the_same(user: Headers, key: bytes | None, id_: bytes | None) -> None:
    """Another key, another partition, another offset: the same id, original key and everything else."""
    headers: Headers = ((names.ORIGINAL_TOPIC, b"heat"), *user, (names.ATTEMPT, b"1"))
    if id_ is not None:
        headers += ((names.MESSAGE_ID, id_.hex().encode()),)
    record = Received(key=key, headers=headers)
    event = parse_failure(record)
    fixed = fixed_for_forwarding(record, event)
    there = parse_failure(Received(partition=7, offset=1, key=event.id.hex().encode(), headers=fixed))
    assert there == event._replace(kind=event.kind._replace(forwarded=True))


def test_forwarding_fixes_each_header_once() -> None:
    """Earlier values of the three are replaced, all else stays in its place."""
    headers: Headers = (
        (names.MESSAGE_ID, b"0" * 32),
        ("a", b"1"),
        (names.ORIGINAL_TOPIC, b"t"),
        (names.FORWARDED, b"1"),
        (names.ORIGINAL_KEY, None),
        ("a", b"2"),
    )
    record = Received(headers=headers)
    assert fixed_for_forwarding(record, parse_failure(record)) == (
        ("a", b"1"),
        (names.ORIGINAL_TOPIC, b"t"),
        ("a", b"2"),
        (names.MESSAGE_ID, b"0" * 32),
        (names.ORIGINAL_KEY, None),
        (names.FORWARDED, b"1"),
    )


def test_quarantine_keeps_the_event_whole() -> None:
    """Even what is malformed or given twice; only the reason of an earlier quarantine gives way."""
    headers: Headers = ((names.ATTEMPT, b"x"), (names.ATTEMPT, b"y"), (names.QUARANTINE_REASON, b"old"), ("a", None))
    assert quarantine_headers(Received(headers=headers), "dlq-attempt: \ud800") == (
        (names.ATTEMPT, b"x"),
        (names.ATTEMPT, b"y"),
        ("a", None),
        (names.QUARANTINE_REASON, b"dlq-attempt: \\ud800"),
        (names.QUARANTINE_TOPIC, b"dlq-stream-failures"),
        (names.QUARANTINE_PARTITION, b"1"),
        (names.QUARANTINE_OFFSET, b"17"),
    )


def test_quarantine_reasons_are_cut() -> None:
    """A reason is a sentence, not a payload."""
    headers = own(quarantine_headers(Received(), "x" * 9999))
    assert headers[names.QUARANTINE_REASON] == b"x" * quarantine_reason_chars_max


def _size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """The size of the record alone in a batch, as the client encodes it."""
    builder: Any = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=1,
        producer_id=2**40,
        producer_epoch=9,
        base_sequence=7,
        batch_size=1 << 24,
    )
    builder.append(0, 1_700_000_000_000, key, value, list(headers))
    return len(builder.build())


@given(
    st.none() | st.binary(max_size=300),
    st.none() | st.binary(max_size=300),
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8"), max_size=80), st.none() | st.binary(max_size=200)), max_size=20
    ).map(tuple),
)
def test_record_size_is_a_close_upper_bound(key: bytes | None, value: bytes | None, headers: Headers) -> None:
    """Never below what goes over the wire, and not far above."""
    real = _size(key, value, headers)
    assert real <= record_size(key, value, headers) <= real + 25 + 4 * len(headers)


@pytest.mark.parametrize("size", [63, 64, 8191, 8192, 1 << 20, 1 << 21])
def test_record_size_at_the_edges_of_varints(size: int) -> None:
    """Lengths take more bytes as they grow."""
    content = b"x" * size
    for key, value, headers in (
        (content, None, ()),
        (None, content, ()),
        (None, None, (("h", content),)),
        (None, None, (("x" * size, None),)),
    ):
        assert record_size(key, value, headers) >= _size(key, value, headers)


def test_record_size_takes_any_name() -> None:
    """A name that cannot be encoded is still measured."""
    assert record_size(None, None, (("\ud800", None),)) > record_size(None, None, (("", None),))


def test_fit_drops_in_order() -> None:
    """As the room shrinks: the stack trace first, identity last, and what belongs together goes together."""
    headers = dead_letter_headers(USER, FACTS, "permanent")
    kept = set(own(headers))
    dropped = []
    for room in range(record_size(b"k", b"v", headers), 0, -1):
        fitting = fit(headers, b"k", b"v", room)
        if fitting is None:
            break
        assert fitting[:3] == USER
        gone = kept - set(own(fitting))
        if gone:
            dropped.append(gone)
            kept -= gone
    assert dropped == [set(together) & set(own(headers)) for together in OPTIONAL]
    assert kept == {names.MESSAGE_ID, names.ATTEMPT, names.GROUP, names.QUEUE}


def test_fit_returns_what_fits_as_it_is() -> None:
    """No copy where nothing has to go."""
    headers = emission_headers(USER, FACTS)
    assert fit(headers, b"k", b"v", record_size(b"k", b"v", headers)) is headers


def test_fit_of_a_failure_event_keeps_what_the_worker_needs() -> None:
    """With fewer headers to drop the event still reads the same, but for its description."""
    headers = failure_headers(USER, FACTS, original_key=b"k", outcomes_reported=True)
    least = fit(headers, None, None, record_size(None, None, headers) - 190, droppable=DESCRIPTIVE)
    assert least is not None
    event = parse_failure(Received(headers=least))
    assert (event.id, event.origin, event.key) == (ID, FACTS.origin, b"k")
    assert (event.kind.outcomes_reported, event.kind.retry_topic) == (True, "heat-processing-mine")
    assert fit(headers, None, None, 100, droppable=DESCRIPTIVE) is None


@given(
    USER_HEADERS,
    FACTS_OF_ALL_KINDS,
    st.none() | st.binary(max_size=100),
    st.none() | st.binary(max_size=500),
    st.integers(0, 1500),
)
def test_fit_never_exceeds(
    user: Headers, facts: Facts, key: bytes | None, value: bytes | None, record_bytes_max: int
) -> None:
    """What comes back fits, keeps the user's headers and our four; None only where even these do not fit."""
    headers = dead_letter_headers(user, facts, "permanent")
    fitting = fit(headers, key, value, record_bytes_max)
    needed = {names.MESSAGE_ID, names.ATTEMPT, names.GROUP, names.QUEUE}
    least = tuple(header for header in headers if header[0] in needed or header[0] not in OWN_HEADERS)
    if fitting is None:
        assert record_size(key, value, least) > record_bytes_max
    else:
        assert record_size(key, value, fitting) <= record_bytes_max
        assert _size(key, value, fitting) <= record_bytes_max
        assert fitting[: len(user)] == user
        assert needed <= set(own(fitting))
