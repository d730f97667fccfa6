"""Records in quarantine, read back as they were received."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.headers import OWN_HEADERS, parse_failure
from dlq_stream.core.model import Headers
from dlq_stream.core.outgoing import quarantine_headers
from dlq_stream.view.restored import Place, held, received_headers, received_value, returning
from tests.core.received import Received

APP = ("app-failures", "app-commands")
NAMES = st.sampled_from(["trace", "dlq-retry-after-ms", "dlq-group", "dlq-message-id", "user"])
HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=9)), max_size=5).map(tuple)
BYTES = st.none() | st.binary(max_size=40)


def quarantined(
    headers: Headers = (),
    value: bytes | None = b"v",
    key: bytes | None = b"k",
    *,
    topic: str = APP[0],
    more: Headers = (),
    offset: int = 1042,
) -> Received:
    """A record as quarantine holds it, which came from partition 2, offset 7 of ``topic``."""
    came = Received(headers=headers, topic=topic, partition=2, offset=7, key=key, value=value)
    return Received(
        headers=(*quarantine_headers(came, "why"), *more),
        topic="app-quarantine",
        partition=2,
        offset=offset,
        timestamp=1_700_000_000_000,
        key=key,
        value=value,
    )


@given(HEADERS, BYTES, BYTES, st.sampled_from(APP))
def test_what_goes_back_is_what_came(headers: Headers, value: bytes | None, key: bytes | None, topic: str) -> None:
    """To the byte, but for an id where a failure event has none of its own."""
    back = returning(quarantined(headers, value, key, topic=topic), APP, APP[0], 4)
    assert (back.topic, back.partition, back.key, back.value) == (topic, 2, key, value)
    assert back.headers[: len(headers)] == headers
    added = back.headers[len(headers) :]
    assert [name for name, _ in added] in ([], ["dlq-message-id"])
    assert not added or dict(headers).get("dlq-message-id") is None


def test_a_failure_without_an_id_gets_the_same_each_time() -> None:
    """From where it was received, not from where it is written again; another record gets another id."""
    headers = (("dlq-original-topic", b"heat"), ("dlq-group", b"furnaces"))

    def id_of(record: Received, written_to: int) -> bytes:
        back = returning(record, APP, APP[0], 4)
        again = Received(
            headers=back.headers, topic=back.topic, partition=2, offset=written_to, key=back.key, value=back.value
        )
        return parse_failure(again).id

    once, twice = id_of(quarantined(headers), 100), id_of(quarantined(headers), 200)
    assert once == twice
    whole = (
        *headers,
        ("dlq-original-partition", b"0"),
        ("dlq-original-offset", b"1"),
        ("dlq-original-timestamp", b"2"),
    )
    assert returning(quarantined(whole), APP, APP[0], 4).headers == whole


def test_packed_values_are_unpacked_and_nothing_else_is() -> None:
    """A value that says it is packed and is not cannot be sent; neither can a packing of a later version."""
    packing = (("dlq-quarantine-encoding", b"gzip"),)
    value = b"x" * 2_000_000
    packed = quarantined(value=gzip.compress(value), more=packing)
    assert held(packed).packed
    assert received_value(packed) == value
    for broken in (b"no gzip", gzip.compress(value)[:-9], b""):
        with pytest.raises(ValueError, match="cannot be unpacked"):
            received_value(quarantined(value=broken, more=packing))
    with pytest.raises(ValueError, match=r"packed as b'zstd', which this version does not know"):
        received_value(quarantined(more=(("dlq-quarantine-encoding", b"zstd"),)))


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (quarantined(topic="payments"), "it came from 'payments', which is none of app-failures, app-commands"),
        (Received(topic="app-quarantine"), "it came from 'nowhere'"),
        (quarantined(more=(("dlq-quarantine-cut", b"key of 2 bytes"),)), "only its beginnings are here"),
    ],
)
def test_what_cannot_go_back(record: Received, told: str) -> None:
    """Whoever may write to the quarantine cannot have us write anywhere else; a piece is not sent for the whole."""
    with pytest.raises(ValueError, match=told):
        returning(record, APP, APP[0], 4)


def test_a_partition_that_is_no_more() -> None:
    """Of an app that was made anew with fewer."""
    with pytest.raises(ValueError, match="it came from partition 2, and app-failures has 2"):
        returning(quarantined(), APP, APP[0], 2)


@given(st.lists(st.tuples(st.text(max_size=9) | st.sampled_from(sorted(OWN_HEADERS)), BYTES), max_size=6).map(tuple))
def test_any_headers_are_read_without_an_error(headers: Headers) -> None:
    """Nothing is taken for granted of a topic that others may write to."""
    record = Received(headers=headers, topic="app-quarantine", partition=0, offset=3)
    assert held(record).place == Place(0, 3)
    assert all(
        not name.startswith("dlq-quarantine-") or name not in OWN_HEADERS for name, _ in received_headers(record)
    )


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1))
def test_places_are_read_as_they_are_written(partition: int, offset: int) -> None:
    """And nothing else is one."""
    assert Place.parse(str(Place(partition, offset))) == (partition, offset)
    for wrong in (
        f"{partition}",
        f"{partition}-",
        f"-{offset}",
        f"{partition}-{offset}-1",
        f"{partition}- {offset}",
        "é-1",
    ):
        with pytest.raises(ValueError, match="no record in quarantine"):
            Place.parse(wrong)
