"""The wire contract's document says what the code does, and its vectors can be kept by anybody."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from dlq_stream.client.report import Reporting
from dlq_stream.core import commands, header_values, headers, ids, outgoing
from dlq_stream.core.commands import Action, Command, Order, Succeeded, Traffic, encode_command, parse_command
from dlq_stream.core.decide import EscalationReason
from dlq_stream.core.destinations import topic_chars_max
from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.headers import OWN_HEADERS, QUARANTINE_HEADERS, fault_of, parse_failure
from dlq_stream.core.model import ErrorCategory, Headers, Origin
from dlq_stream.core.outgoing import Facts, dead_letter_headers, emission_headers
from dlq_stream.settings import QueueSettings, published
from dlq_stream.settings.queues import BackoffSettings
from tests.core.received import HEADERS, USER_HEADERS, Received
from tests.deploy.document import (
    DOCUMENT,
    MESSAGES,
    SCHEMAS,
    VECTORS,
    at,
    described,
    judge_of,
    references,
    structural_faults,
)
from tests.engine.said import all_that_is_said
from tests.settings.test_published import policies

FAILURE, RETRY, LETTER, QUARANTINED = (
    judge_of(f"#/components/schemas/{kind}Headers") for kind in ("failure", "retry", "deadLetter", "quarantine")
)
COMMANDS = {
    at(message["payload"]["$ref"])["properties"]["type"]["const"]: judge_of(message["payload"]["$ref"])
    for message in (at(each["$ref"]) for each in DOCUMENT["channels"]["commands"]["messages"].values())
}
POLICY = judge_of("#/components/schemas/publishedPolicy")


def properties(kind: str) -> set[str]:
    return set(SCHEMAS[f"{kind}Headers"]["properties"])


def refusal(read: Callable[[Any], object], what: object) -> MalformedEvent | None:
    """Why it is not understood; None where it is."""
    try:
        read(what)
    except MalformedEvent as fault:
        return fault
    return None


def names_of(said: Headers) -> set[str]:
    return {name for name, _ in said if name in OWN_HEADERS}


# ------------------------------------------------------------------------------------------------------ the document


def test_it_is_an_asyncapi_document() -> None:
    """Of version 3.0.0, by its structure; every reference leads somewhere, and schemas are schemas."""
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert list(structural_faults()) == []
    for reference in references():
        at(reference)
    for schema in SCHEMAS.values():
        Draft7Validator.check_schema(schema)


def test_channels_say_what_they_are_called_and_what_is_done_with_them() -> None:
    """Each parameter of an address is declared, each channel has an operation, each message a channel."""
    for channel in DOCUMENT["channels"].values():
        assert {f"{{{name}}}" in channel["address"] for name in channel["parameters"]} == {True}
        assert channel["address"].count("{") == len(channel["parameters"])
    assert {each["channel"]["$ref"].split("/")[-1] for each in DOCUMENT["operations"].values()} == set(
        DOCUMENT["channels"]
    )
    carried = [each["$ref"] for channel in DOCUMENT["channels"].values() for each in channel["messages"].values()]
    assert sorted(carried) == sorted(f"#/components/messages/{name}" for name in MESSAGES)


def test_examples_are_examples() -> None:
    """Of what they stand beside."""
    for name, message in MESSAGES.items():
        for example in message["examples"]:
            for part in example.keys() & {"headers", "payload"}:
                judge_of(f"#/components/messages/{name}/{part}").validate(example[part])


# ----------------------------------------------------------------------------------------------------------- headers


def test_every_header_is_described_and_no_other() -> None:
    """And each of them is on one message at least."""
    assert {name for name in SCHEMAS if name.startswith("dlq-")} == set(OWN_HEADERS)
    kinds = [properties(kind) for kind in ("failure", "retry", "deadLetter", "quarantine")]
    assert set().union(*kinds) == set(OWN_HEADERS)
    assert SCHEMAS["failureHeaders"]["required"] == [headers.ORIGINAL_TOPIC]


def test_each_message_has_the_headers_that_are_written() -> None:
    """Of a failure that says all there is to say."""
    failure, retry, letter = all_that_is_said()
    workers = {headers.FIRST_FAILED_AT, headers.DUE_AT, headers.ESCALATION_REASON, headers.UNDECODABLE}
    assert properties("failure") == set(OWN_HEADERS) - QUARANTINE_HEADERS - workers
    assert properties("failure") <= names_of(failure.headers)
    assert (properties("retry"), properties("deadLetter")) == (names_of(retry.headers), names_of(letter.headers))
    assert properties("quarantine") == QUARANTINE_HEADERS | {headers.UNDECODABLE}
    for judge, said in ((FAILURE, failure.headers), (RETRY, retry.headers), (LETTER, letter.headers)):
        judge.validate(described(said))


def test_the_bounds_are_those_of_the_code() -> None:
    """Each by its name."""
    read = header_values
    numbers = {
        headers.ATTEMPT: headers.attempt_max,
        headers.ORIGINAL_PARTITION: headers.partition_max,
        headers.ORIGINAL_OFFSET: headers.number_max,
        headers.ORIGINAL_TIMESTAMP: headers.number_max,
        headers.FAILED_AT: headers.time_ms_max,
        headers.RETRY_AFTER_MS: headers.retry_after_ms_max,
    }
    assert {n: s["x-maximum"] for n, s in SCHEMAS.items() if "x-maximum" in s} == numbers
    sizes = {
        headers.QUEUE: read.queue_bytes_max,
        headers.GROUP: read.group_bytes_max,
        headers.METADATA: read.metadata_bytes_max,
    }
    assert {n: s["x-bytes-max"] for n, s in SCHEMAS.items() if "x-bytes-max" in s} == sizes
    assert {n: SCHEMAS[n]["maxLength"] for n in sizes} == sizes
    for name in (headers.ORIGINAL_TOPIC, headers.RETRY_TOPIC):
        assert SCHEMAS[name]["maxLength"] == topic_chars_max
    assert {n: s["x-cut-at-bytes"] for n, s in SCHEMAS.items() if "x-cut-at-bytes" in s} == {
        headers.ERROR_TYPE: read.error_types_bytes_max,
        headers.ERROR_CAUSE_TYPE: read.error_types_bytes_max,
        headers.ERROR_STACKTRACE: read.error_stacktrace_bytes_max,
    }
    assert SCHEMAS[headers.ERROR_TYPE]["x-names-max"] == read.error_types_max
    assert SCHEMAS[headers.ERROR_MESSAGE]["x-cut-at-characters"] == read.error_message_chars_max
    assert SCHEMAS[headers.QUARANTINE_REASON]["maxLength"] == outgoing.quarantine_reason_chars_max


def test_words_are_those_of_the_code() -> None:
    """Where a header has a few values only."""
    assert {name: schema["enum"] for name, schema in SCHEMAS.items() if "enum" in schema} == {
        headers.CATEGORY: [str(each) for each in ErrorCategory],
        headers.OUTCOMES: [headers.OUTCOMES_REPORTED.decode()],
        headers.FORWARDED: [headers.FORWARDED_YES.decode()],
        headers.ESCALATION_REASON: [str(each) for each in EscalationReason],
        headers.QUARANTINE_ENCODING: [headers.GZIP.decode()],
    }


def test_what_is_left_out_first() -> None:
    """In the order of the code, and what is required never is."""
    order = [list(line) for line in outgoing.OPTIONAL]
    for kind in ("retry", "deadLetter"):
        assert SCHEMAS[f"{kind}Headers"]["x-left-out-in-order"] == order
        assert set(SCHEMAS[f"{kind}Headers"]["required"]).isdisjoint(name for line in order for name in line)


_texts = st.text(max_size=30)
_ids = st.binary(min_size=16, max_size=16)
_records = st.builds(
    Received,
    topic=st.sampled_from(["heat-processing", "a", "x" * 249]),
    partition=st.integers(0, headers.partition_max),
    offset=st.integers(0, headers.number_max),
    timestamp=st.integers(-1, headers.time_ms_max),
    key=st.none() | st.binary(max_size=20),
    headers=USER_HEADERS | HEADERS,
)


@given(
    record=_records,
    error=st.builds(ValueError, _texts),
    group=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    category=st.none() | st.sampled_from(ErrorCategory),
    metadata=st.none() | st.dictionaries(_texts, _texts),
    now_ms=st.integers(0, headers.time_ms_max),
    outcomes=st.booleans(),
)
def test_what_the_sdk_reports_is_valid(
    record: Received,
    error: Exception,
    group: str,
    category: ErrorCategory | None,
    metadata: dict[str, str] | None,
    now_ms: int,
    outcomes: bool,
) -> None:
    """Whatever the record, its headers, the error and the metadata are."""
    reporting = Reporting(group, outcomes)
    made = reporting.report(record, error, queue=None, category=category, metadata=metadata, now_ms=now_ms)
    FAILURE.validate(described(made.headers))
    judge_of("#/components/schemas/messageId").validate(made.message_id)


_numbers = st.none() | st.integers(0, headers.time_ms_max)
_facts = st.builds(
    Facts,
    id=_ids,
    queue=st.sampled_from(["heat-processing", "öfen"]),
    attempt=st.integers(0, headers.attempt_max),
    group=st.text(st.characters(codec="utf-8"), max_size=20),
    origin=st.just(Origin("heat")) | st.builds(Origin, st.just("heat"), st.just(3), st.just(81), st.integers(-1, 9)),
    error_types=st.lists(_texts, max_size=3),
    error_message=_texts,
    error_stacktrace=st.binary(max_size=30),
    category=st.none() | st.sampled_from(ErrorCategory),
    failed_at=_numbers,
    first_failed_at=_numbers,
    due_at=_numbers,
    retry_topic=st.none() | st.just("heat-later"),
    metadata=st.none() | st.binary(max_size=30),
)


@given(USER_HEADERS, _facts, st.sampled_from(EscalationReason))
def test_what_workers_write_is_valid(user: Headers, facts: Facts, reason: EscalationReason) -> None:
    """Retries, dead letters, and what is put into quarantine."""
    RETRY.validate(described(emission_headers(user, facts)))
    letter = dead_letter_headers(user, facts, reason)
    LETTER.validate(described(letter))
    QUARANTINED.validate(described(outgoing.quarantine_headers(Received(headers=letter), reason * 100)))


@given(HEADERS)
def test_headers_are_valid_where_they_are_understood(said: Headers) -> None:
    """The document refuses what the worker refuses, as far as it can say so: not all that cannot be printed."""
    said = ((headers.ORIGINAL_TOPIC, b"heat"), *said)
    shown = described(said)
    refused = refusal(parse_failure, Received(headers=said))
    if FAILURE.is_valid(shown):
        assert refused is None or (fault_of(refused) == headers.QUEUE and "cannot be printed" in str(refused))
    else:
        assert refused is not None, shown


# ---------------------------------------------------------------------------------------------------------- commands


def test_every_command_is_described() -> None:
    """Each has its fields, all of the bounds of the code."""
    assert set(COMMANDS) == set(commands._TYPES)
    assert SCHEMAS["reason"]["maxLength"] == commands.reason_chars_max
    assert SCHEMAS["by"]["maxLength"] == commands.by_chars_max
    assert f"{commands.command_bytes_max:,} bytes" in DOCUMENT["channels"]["commands"]["description"].replace("\n", " ")


_orders = st.builds(
    Order,
    id=_ids,
    action=st.sampled_from([each for each in Action if each is not Action.RESCHEDULE]),
    revision=st.integers(0, headers.number_max),
    reason=st.text(st.characters(codec="utf-8"), max_size=50),
    by=st.text(st.characters(codec="utf-8"), max_size=50),
)
_reschedules = st.builds(
    Order, _ids, st.just(Action.RESCHEDULE), st.just(1), due_at=st.integers(0, headers.time_ms_max)
)
_successes = st.builds(Succeeded, _ids, st.integers(0, headers.attempt_max))
_traffic = st.builds(
    Traffic,
    queue=st.sampled_from(["heat-processing", "öfen"]),
    group=st.text(st.characters(codec="utf-8"), max_size=20),
    processed=st.integers(0, headers.number_max),
    failed=st.just(0),
    from_ms=st.just(0),
    to_ms=st.integers(0, headers.time_ms_max),
)


@given(_orders | _reschedules | _successes | _traffic)
def test_what_is_ordered_is_valid(command: Command) -> None:
    """As its own type and as no other."""
    fields = json.loads(encode_command(command))
    assert [kind for kind, judge in COMMANDS.items() if judge.is_valid(fields)] == [fields["type"]]


_wild: Any = st.sampled_from(
    [0, 1, -1, True, None, "", "x", "x" * 201, "x" * 1001, 1.0, 1.5, [], {}, "ab" * 16, "AB" * 16, "ab" * 16 + "\n"]
) | st.sampled_from([headers.number_max, headers.attempt_max, headers.time_ms_max]).flatmap(
    lambda most: st.sampled_from([most, most + 1])
)
_FIELDS = ("message_id", "attempt", "revision", "reason", "by", "due_at", "queue", "group", "processed", "failed")
_objects = st.builds(
    lambda kind, usual, wild: {"type": kind} | usual | wild,
    st.sampled_from(sorted(commands._TYPES)) | st.sampled_from(["explode", 1, None]),
    st.fixed_dictionaries({"message_id": st.just("ab" * 16)}, optional=dict.fromkeys(_FIELDS[1:6], st.just(1))),
    st.dictionaries(st.sampled_from((*_FIELDS, "from_ms", "to_ms", "other")), _wild, max_size=2),
)


@given(_objects)
def test_commands_are_valid_where_they_are_understood(fields: dict[str, Any]) -> None:
    """The document and `parse_command` refuse the same, but for relations of two numbers."""
    refused = refusal(parse_command, json.dumps(fields).encode())
    if any(judge.is_valid(fields) for judge in COMMANDS.values()):
        assert refused is None or (fields["type"] == "traffic" and fault_of(refused) in ("failed", "to_ms"))
    else:
        assert refused is not None


# ---------------------------------------------------------------------------------------------------------- policies


def test_every_field_of_a_policy_is_described() -> None:
    """With the bounds of the settings."""
    assert set(SCHEMAS["queuePolicy"]["properties"]) == set(QueueSettings.model_fields)
    assert set(SCHEMAS["backoff"]["properties"]) == set(BackoffSettings.model_fields)
    assert f"{published.policy_bytes_max:,} bytes" in DOCUMENT["channels"]["policies"]["description"]


@given(policies)
def test_what_is_published_is_valid(policy: QueueSettings) -> None:
    """Whatever differs from the settings."""
    POLICY.validate(json.loads(published.encode("heat-processing", policy)[1]))


@given(
    st.sampled_from(sorted(QueueSettings.model_fields)),
    st.sampled_from([0, 1, -1, 0.5, 1e9, 10_001, "none", "retry", "x", "", [], {}, {"a": {}}, [{"text": "x"}], True]),
)
def test_policies_are_understood_where_they_are_valid(field: str, value: Any) -> None:
    """The document refuses more: a number must not be a text, and a flag no number."""
    fields = {"format": 1, "policy": {field: value}}
    if POLICY.is_valid(fields):
        published.decode("heat-processing", json.dumps(fields).encode())


# ----------------------------------------------------------------------------------------------------------- vectors


def independent_id(group: str, topic: str, *coordinates: int) -> str:
    """The message id in the words of the document, with nothing of ours."""
    texts = b"".join(len(text.encode()).to_bytes(4, "big") + text.encode() for text in (group, topic))
    numbers = b"".join(number.to_bytes(8, "big", signed=True) for number in coordinates)
    return hashlib.blake2b(texts + numbers, digest_size=16).hexdigest()


def independent_murmur2(data: bytes) -> int:
    """Kafka's murmur2 of a multiple of four bytes, unsigned."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    for (k,) in struct.iter_unpack("<I", data):
        k = k * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


@pytest.mark.parametrize("vector", VECTORS["messageIds"])
def test_ids_and_partitions(vector: dict[str, Any]) -> None:
    """As the code has them, and as a few lines without it do."""
    group, topic, *coordinates = (vector[name] for name in ("group", "topic", "partition", "offset", "timestamp"))
    expected = vector["message_id"]
    assert ids.message_id(group, Origin(topic, *coordinates)).hex() == expected
    assert independent_id(group, topic, *coordinates) == expected
    hashed = independent_murmur2(expected.encode())
    assert ids.murmur2(expected.encode()) == vector["murmur2"] == hashed - (1 << 32) * (hashed >> 31)
    for partitions in (4, 12):
        found = vector[f"partition_of_{partitions}"]
        assert ids.partition_of(bytes.fromhex(expected), partitions) == found
        assert (hashed & 0x7FFFFFFF) % partitions == found


def test_what_is_hashed() -> None:
    """Byte by byte."""
    vector = VECTORS["hashed"]
    digest = hashlib.blake2b(bytes.fromhex(vector["hex"]), digest_size=16).hexdigest()
    assert digest == vector["message_id"] == VECTORS["messageIds"][0]["message_id"]


def _raw(value: Any) -> bytes | None:
    if value is None:
        return None
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else str(value).encode()


def _pairs(pairs: list[list[Any]]) -> Headers:
    return tuple((name, _raw(value)) for name, value in pairs)


@pytest.mark.parametrize("vector", VECTORS["failures"], ids=lambda vector: vector["name"])
def test_failures(vector: dict[str, Any]) -> None:
    """What is understood of each, or which header is at fault; and the schema agrees."""
    record = Received(headers=_pairs(vector["headers"]))
    shown = described(record.headers)
    assert FAILURE.is_valid(shown) is ("understood" in vector)
    if "refused" in vector:
        with pytest.raises(MalformedEvent) as caught:
            parse_failure(record)
        assert fault_of(caught.value) == vector["refused"]
        return
    event, expected = parse_failure(record), vector["understood"]
    assert {
        "message_id": event.id.hex(),
        "topic": event.kind.topic,
        "queue": event.kind.queue,
        "group": event.kind.group,
        "attempt": event.kind.attempt,
    } == {name: value for name, value in expected.items() if name not in ("key", "headers")}
    assert (event.key, event.headers) == (_raw(expected["key"]), _pairs(expected["headers"]))
