"""The group's committed offsets, as Kafka Streams asks for them: ``OffsetFetch`` with ``require_stable`` (KIP-447).

Removes: aiokafka's own fetch, which reads an input again from its beginning.  Since version 2 of the request a
coordinator that is still loading, or is not the coordinator any more, says so once for the whole answer; aiokafka 0.14
asks in version 3, looks at the partitions alone, finds none in such an answer, and takes that for "nothing committed".
Whoever asks right after a broker's start meets it.

``require_stable`` waits for offsets of transactions that are not ended yet, and for what the coordinator has written
and not replicated.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Any

from aiokafka import TopicPartition, errors
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.05
SAID_SECONDS = 5.0
"""How often a wait is told of in the log."""

_UNSTABLE = 88  # UNSTABLE_OFFSET_COMMIT, which aiokafka does not know
_MOVED = (errors.NotCoordinatorForGroupError, errors.GroupCoordinatorNotAvailableError)
_WAIT = (errors.GroupLoadInProgressError, errors.UnknownTopicOrPartitionError)


class OffsetFetchResponseV7(Response):
    """KIP-447, in the flexible encoding of KIP-482."""

    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class OffsetFetchRequestV7(RequestStruct):
    """KIP-447."""

    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = OffsetFetchResponseV7
    SCHEMA = Schema(
        ("group", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class OffsetFetchRequest(Request[OffsetFetchRequestV7]):
    """Stable committed offsets of a group."""

    API_KEY = 9

    def __init__(self, group: str, places: Collection[TopicPartition]) -> None:
        by_topic: dict[str, list[int]] = {}
        for place in places:
            by_topic.setdefault(place.topic, []).append(place.partition)
        self._group = group
        self._topics: list[tuple[str, list[int], dict[int, bytes]]] = [
            (topic, partitions, {}) for topic, partitions in by_topic.items()
        ]

    def build(self, request_struct_class: type[OffsetFetchRequestV7]) -> OffsetFetchRequestV7:
        """See `Request.build`."""
        return request_struct_class(self._group, self._topics, True, {})


async def committed_offsets_of(
    coordinator: Any, places: Collection[TopicPartition]
) -> Mapping[TopicPartition, int | None]:
    """What the group of this coordinator (a consumer's, of aiokafka) has committed; None where nothing was.

    Waits as long as it takes until brokers answer.  Raises what aiokafka raises for refusals, and NotImplementedError
    before Kafka 2.5.
    """
    time = asyncio.get_running_loop().time
    said = time()
    request = OffsetFetchRequest(coordinator.group_id, places)
    while True:
        await coordinator.ensure_coordinator_known()
        try:
            answer = await coordinator._send_req(request)
        except errors.KafkaError as error:
            if not error.retriable:
                raise
            problem = repr(error)
        else:
            offsets, codes = _read(answer)
            unknown = [place for place in places if place not in offsets]
            if not codes and not unknown:
                return {place: None if offset < 0 else offset for place, offset in offsets.items()}
            problem = f"codes {sorted(codes)}" if codes else f"no answer for {unknown}"
            for code in codes:
                _wait_or_raise(coordinator, code)
        if time() - said > SAID_SECONDS:
            said = time()
            log.warning("waiting for the offsets that group %s has committed: %s", coordinator.group_id, problem)
        await asyncio.sleep(RETRY_SECONDS)


def _read(answer: Any) -> tuple[dict[TopicPartition, int], set[int]]:
    """Offsets by partition, -1 where nothing was committed, and all error codes that are in the answer."""
    offsets, codes = {}, {answer.error_code}
    for topic, partitions, _ in answer.topics:
        for partition, offset, _, _, code, _ in partitions:
            codes.add(code)
            offsets[TopicPartition(topic, partition)] = offset
    return offsets, codes - {0}


def _wait_or_raise(coordinator: Any, code: int) -> None:
    error = errors.for_code(code)
    if error in _MOVED:
        coordinator.coordinator_dead()
    elif code != _UNSTABLE and error not in _WAIT:
        raise error(coordinator.group_id)
