"""A record as a consumer hands it over, for the tests of core."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from dlq_stream.core.headers import OWN_HEADERS
from dlq_stream.core.model import Headers


@dataclass(frozen=True)
class Received:
    topic: str = "dlq-stream-failures"
    partition: int = 1
    offset: int = 17
    timestamp: int = 1_700_000_000_000
    key: bytes | None = b"key"
    value: bytes | None = b"value"
    headers: Headers = ()


HEADER_NAMES = st.sampled_from(sorted(OWN_HEADERS)) | st.text(max_size=12) | st.text(max_size=8).map("dlq-{}".format)
HEADER_VALUES = (
    st.none()
    | st.binary(max_size=40)
    | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.integers().map(lambda number: str(number).encode())
    | st.sampled_from(
        [b"", b"0", b"-1", b"+1", b" 1", b"1_000", "٣".encode(), b"1e3", b"9" * 5000, b"\0", b"\xff", b"f" * 32, b"a,b"]
    )
)
HEADERS = st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=30).map(tuple)
USER_HEADERS = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name not in OWN_HEADERS), HEADER_VALUES
    ),
    max_size=6,
).map(tuple)
