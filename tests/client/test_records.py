"""Records of every consumer, and of none, made one shape."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from confluent_kafka import KafkaError, Message
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.client import PlainRecord, UnusableRecord
from dlq_stream.client.records import plain_record
from tests.client.test_report import Read

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # its own reading of resources
    from kafka.consumer.fetcher import ConsumerRecord as KafkaPythonRecord

HEADERS = (("hop", b"a"), ("hop", None), ("x", b"\xff"))
PLAIN = PlainRecord("heat-processing", 3, 81, 1_700_000_000_000, b"FRN-01", b"{}", HEADERS)


def confluent(**other: Any) -> Message:
    given: dict[str, Any] = dict(zip(("topic", "partition", "offset"), PLAIN[:3], strict=True))
    given |= {"timestamp": (1, PLAIN.timestamp), "key": PLAIN.key, "value": PLAIN.value, "headers": list(HEADERS)}
    return Message(**given | other)


def kafka_python(headers: Any) -> KafkaPythonRecord:
    topic, partition, offset, timestamp, key, value, _ = PLAIN
    return KafkaPythonRecord(topic, partition, 0, offset, timestamp, 0, key, value, headers, None, 6, 2, -1)


@pytest.mark.parametrize(
    "record",
    [
        PLAIN,
        tuple(PLAIN),
        list(PLAIN),
        PLAIN._replace(headers=[["hop", b"a"], ("hop", None), ("x", b"\xff")]),  # type: ignore[arg-type]
        ConsumerRecord(*PLAIN[:4], 0, *PLAIN[4:6], None, 6, 2, HEADERS),
        kafka_python(list(HEADERS)),
        kafka_python(HEADERS),
        confluent(),
    ],
    ids=lambda record: type(record).__module__,
)
def test_every_library_is_recognised_by_its_shape(record: Any) -> None:
    """aiokafka, kafka-python, confluent-kafka, and the seven parts."""
    made = plain_record(record)
    assert made == PLAIN
    assert type(made.headers) is tuple


def test_what_is_absent_is_absent() -> None:
    """No headers, no timestamp, null key and value."""
    bare = PlainRecord("t", 0, 0, -1, None, None)
    assert plain_record(bare) == bare
    assert plain_record(("t", 0, 0, None, None, None, None)) == bare  # type: ignore[arg-type]
    assert plain_record(
        confluent(topic="t", partition=0, offset=0, timestamp=(0, 0), key=None, value=None, headers=None)
    ) == (bare)


def test_headers_as_people_write_them() -> None:
    """Text for values, a mapping where no name repeats, buffers."""
    assert plain_record(PLAIN._replace(headers={"a": "é", "b": bytearray(b"1"), "c": None})).headers == (  # type: ignore[arg-type]
        ("a", "é".encode()),
        ("b", b"1"),
        ("c", None),
    )


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (confluent(error=KafkaError(-191)), r"event of the consumer.*message\.error\(\)"),
        (confluent(value={"a": 1}), "value is of type dict, not bytes.*without deserializers"),
        (PLAIN._replace(key="text"), "key is of type str"),
        (PLAIN._replace(partition=None), "partition is None, not a whole number from 0"),
        (PLAIN._replace(offset=-1001), "offset is -1001"),
        (PLAIN._replace(timestamp=1_700_000_000.5), "timestamp is .*epoch milliseconds, -1 for none"),
        (PLAIN._replace(topic="a b"), "topic is 'a b'"),
        (PLAIN._replace(headers=[("a",)]), "headers, of type list, are not pairs"),
        (PLAIN._replace(headers=5), "headers, of type int"),
        (PLAIN._replace(headers=[(5, b"")]), "name 5 of a header"),
        (PLAIN._replace(headers=[("a", 5)]), "header 'a' is of type int"),
        (tuple(PLAIN)[:6], "a tuple is no record.*PlainRecord"),
        ("record", "a str is no record"),
        (None, "a NoneType is no record"),
        (type("Half", (), {"topic": "t"})(), "a Half is no record: .*partition"),
    ],
)
def test_what_is_no_record_is_refused_with_the_fix(record: Any, told: str) -> None:
    """The part is named, and what to do."""
    with pytest.raises(UnusableRecord, match=told):
        plain_record(record)


@given(
    st.lists(
        st.none() | st.text() | st.binary() | st.integers() | st.tuples(st.text(), st.binary()), min_size=7, max_size=7
    )
)
def test_any_seven_things_are_a_record_or_refused(parts: list[Any]) -> None:
    """Nothing else is raised, and what is made is whole."""
    try:
        made = plain_record(tuple(parts))  # type: ignore[arg-type]
    except UnusableRecord:
        return
    assert plain_record(made) == made


def test_a_record_of_the_tests_is_one() -> None:
    """A dataclass of somebody's own."""
    assert plain_record(Read(headers=None)) == PLAIN._replace(headers=())


def test_an_instant_before_1970_is_no_timestamp() -> None:
    """Brokers take it, so records with it come; nobody may be kept from reporting them."""
    assert plain_record(PLAIN._replace(timestamp=-86_400_000)).timestamp == -1


@pytest.mark.parametrize(
    ("name", "kept"), [(b"caf\xe9", "caf\\xe9"), ("caf\udce9", "caf\\udce9"), (b"caf\xc3\xa9", "café")]
)
def test_a_name_of_a_header_can_always_be_written(name: Any, kept: str) -> None:
    """Whatever it was; a record is not held up by it."""
    plain = plain_record(("topic", 0, 0, -1, None, None, [(name, b"1")]))
    assert plain.headers == ((kept, b"1"),)
    assert plain.headers[0][0].encode()
