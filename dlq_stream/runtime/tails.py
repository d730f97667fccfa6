"""What lies behind the last stable offset of a changelog: written, and neither committed nor aborted.

One answer to a fetch tells both ends at the same instant.  After fencing (`Producer.start`) there is nothing behind the
last stable offset, unless the brokers forgot to end a transaction (see `tenure`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from dlq_stream.runtime.output_notes import outputs_in


class Ends(NamedTuple):
    """Where a partition ends."""

    stable: int
    """The last stable offset, at which readers of committed records stop."""
    written: int
    """The high-water mark."""


SILENCE_SECONDS_MAX = 10.0
"""No answer to a fetch for this long counts as brokers that do not answer."""

SURE_SECONDS = 1.0
"""A tail that is still there after this long is there for good; a broker that just took over may show one for less."""

_LOOK_MS = 20


async def lasting_ends_of(consumer: Any, places: Iterable[TopicPartition]) -> dict[TopicPartition, Ends]:
    """Where partitions end, by the latest fetches of a ``read_committed`` consumer, whose positions this may move.

    While there is a tail, it is waited for `SURE_SECONDS` whether it goes away.  Raises TimeoutError.
    """
    wanted = list(places)
    time = asyncio.get_running_loop().time
    until = time() + SURE_SECONDS
    while True:
        ends = await _ends_of(consumer, wanted)
        if all(end.stable == end.written for end in ends.values()) or time() > until:
            return ends
        await consumer.getmany(timeout_ms=_LOOK_MS, max_records=1)


async def _ends_of(consumer: Any, wanted: Collection[TopicPartition]) -> dict[TopicPartition, Ends]:
    """A partition that was not fetched from yet is waited for."""
    consumer.resume(*wanted)
    async with asyncio.timeout(SILENCE_SECONDS_MAX):
        while any(consumer.highwater(place) is None for place in wanted):
            await consumer.getmany(timeout_ms=_LOOK_MS, max_records=1)
    return {place: Ends(consumer.last_stable_offset(place), consumer.highwater(place)) for place in wanted}


async def outputs_between(consumer: Any, tails: Mapping[TopicPartition, Ends]) -> set[tuple[str, int]]:
    """Which topics and partitions the records of these tails note, read by a ``read_uncommitted`` consumer.

    Raises TimeoutError, and `msgspec.DecodeError` where a note does not decode.
    """
    outputs: set[tuple[str, int]] = set()
    for place, (stable, written) in tails.items():
        consumer.seek(place, stable)
        async with asyncio.timeout(SILENCE_SECONDS_MAX):
            while await consumer.position(place) < written:
                fetched = await consumer.getmany(place, timeout_ms=_LOOK_MS)
                for record in fetched.get(place, ()):
                    outputs |= outputs_in(record.headers)
    return outputs
