"""How a transaction was decided, and ending one that the brokers forgot to end; see `tenure` for why.

The coordinator's log keeps the decision of a transactional id's latest transaction until the id is fenced
(``InitProducerId`` makes the state "Empty"), so it is asked before that (KIP-664, ``DescribeTransactions``).
Afterwards a transaction of the same producer is opened over the same partitions, without a record in them, and ended in
the same way: its markers end whatever of this producer is open there.

Gaps are left, of milliseconds each.  Should this process end after fencing and before that is done, nobody knows the
decision any more.  It was a commit if our store holds what hangs; otherwise it is taken for an abort: the work is done
again then, instead of making visible what may not be all there.  And a transaction that was aborted when its outputs
had been written and its rows had not leaves no trace in a changelog: where it wrote to is not known.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import aiokafka
from aiokafka import errors
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.transaction import AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.01

GONE_SECONDS = 1.0
"""A topic that a broker has not heard of for so long does not exist; right after its start it may know of none."""

_COMMITTED = ("PrepareCommit", "CompleteCommit")
_ENDING = ("PrepareCommit", "PrepareAbort")
_FENCED = "Empty"
_UNKNOWN = ""
_MOVED = (errors.CoordinatorNotAvailableError, errors.NotCoordinatorError)
_WAIT = (errors.CoordinatorLoadInProgressError, errors.ConcurrentTransactions)
_UNKNOWN_ID = 105  # TRANSACTIONAL_ID_NOT_FOUND, which aiokafka does not know
_NOT_TRIED = errors.OperationNotAttempted.errno  # since another partition of the same request was refused
_FORBIDDEN = errors.TopicAuthorizationFailedError
_UNKNOWN_TOPIC = errors.UnknownTopicOrPartitionError


class DescribeTransactionsResponseV0(Response):
    """KIP-664; the states are those of ``org.apache.kafka.coordinator.transaction.TransactionState``."""

    API_KEY = 65
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "transaction_states",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", CompactString("utf-8")),
                ("transaction_state", CompactString("utf-8")),
                ("transaction_timeout_ms", Int32),
                ("transaction_start_time_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                (
                    "topics",
                    CompactArray(
                        ("topic", CompactString("utf-8")),
                        ("partitions", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeTransactionsRequestV0(RequestStruct):
    """KIP-664."""

    API_KEY = 65
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = DescribeTransactionsResponseV0
    SCHEMA = Schema(("transactional_ids", CompactArray(CompactString("utf-8"))), ("tags", TaggedFields))


class DescribeTransactionsRequest(Request[DescribeTransactionsRequestV0]):
    """How the latest transaction of a transactional id stands."""

    API_KEY = 65

    def __init__(self, transactional_id: str) -> None:
        self._transactional_id = transactional_id

    def build(self, request_struct_class: type[DescribeTransactionsRequestV0]) -> DescribeTransactionsRequestV0:
        """See `Request.build`."""
        return request_struct_class([self._transactional_id], {})


async def committed_last(producer: aiokafka.AIOKafkaProducer) -> bool | None:
    """Whether the latest transaction of this producer's id was committed; None where the brokers do not tell.

    To be called before the producer is started.  Raises what aiokafka raises, and waits for a coordinator for ever.
    """
    await producer.client.bootstrap()
    try:
        state = await _state(producer)
    except errors.IncompatibleBrokerVersion:  # Kafka before 3.0
        return None
    except errors.TransactionalIdAuthorizationFailed:  # Kafka itself takes WRITE for DESCRIBE as well; others may not
        log.warning("DESCRIBE on transactional id %s is not allowed", producer._txn_manager.transactional_id)
        return None
    return None if state in (_UNKNOWN, _FENCED) else state in _COMMITTED


async def settle(
    producer: aiokafka.AIOKafkaProducer, outputs: Iterable[tuple[str, int]], group: str, *, commit: bool
) -> None:
    """Commit or abort what hangs of this started producer in ``outputs`` and in the group's offsets.

    Returns when the markers are written.  Topics that are gone for `GONE_SECONDS`, or that may not be written to any
    more, are left out.  Raises what aiokafka raises, and waits for a coordinator for ever.
    """
    manager = producer._txn_manager
    who = manager.transactional_id, manager.producer_id, manager.producer_epoch
    await _add(producer, who, set(outputs))
    await _until_done(producer, AddOffsetsToTxnRequest(*who, group))
    await _until_done(producer, EndTxnRequest(*who, commit))
    ending = True
    while ending:  # the offsets are read next
        await asyncio.sleep(RETRY_SECONDS)
        ending = await _is_ending(producer)


async def _is_ending(producer: aiokafka.AIOKafkaProducer) -> bool:
    try:
        return await _state(producer) in _ENDING
    except errors.IncompatibleBrokerVersion:
        return False


async def _until_done(producer: aiokafka.AIOKafkaProducer, request: Any) -> None:
    while await _again(producer, (await _ask(producer, request)).error_code):
        pass


async def _state(producer: aiokafka.AIOKafkaProducer) -> str:
    """The state of the id's latest transaction; `_UNKNOWN` where the coordinator has not heard of the id."""
    while True:
        answer = await _ask(producer, DescribeTransactionsRequest(producer._txn_manager.transactional_id))
        [(code, _, state, *_)] = answer.transaction_states
        if code == _UNKNOWN_ID:
            return _UNKNOWN
        if not await _again(producer, code):
            return str(state)


async def _add(producer: aiokafka.AIOKafkaProducer, who: tuple[Any, ...], places: set[tuple[str, int]]) -> None:
    """Add the partitions to the transaction, all of them or none at a time."""
    time = asyncio.get_running_loop().time
    gone_at = time() + GONE_SECONDS
    while places:
        by_topic: dict[str, list[int]] = {}
        for topic, partition in sorted(places):
            by_topic.setdefault(topic, []).append(partition)
        answer = await _ask(producer, AddPartitionsToTxnRequest(*who, list(by_topic.items())))
        codes = {(topic, partition): code for topic, results in answer.errors for partition, code in results}
        unknown = {place for place, code in codes.items() if errors.for_code(code) is _UNKNOWN_TOPIC}
        lacking = {place for place, code in codes.items() if errors.for_code(code) is _FORBIDDEN}
        if time() > gone_at:
            lacking |= unknown
        if lacking:
            log.warning("cannot end what was written to %s: not there any more, or not allowed", sorted(lacking))
            places -= lacking
        elif unknown:
            await asyncio.sleep(RETRY_SECONDS)
        elif not await _again(producer, max(set(codes.values()) - {_NOT_TRIED}, default=0)):
            return


async def _ask(producer: aiokafka.AIOKafkaProducer, request: Any) -> Any:
    sender = producer._sender
    node = await sender._find_coordinator(CoordinationType.TRANSACTION, producer._txn_manager.transactional_id)
    try:
        return await producer.client.send(node, request, group=ConnectionGroup.COORDINATION)
    except errors.KafkaError:
        sender._coordinator_dead(CoordinationType.TRANSACTION)
        raise


async def _again(producer: aiokafka.AIOKafkaProducer, code: int) -> bool:
    """Whether the request is to be repeated, after a pause.  Raises the error where that would not help."""
    error = errors.for_code(code)
    if error is errors.NoError:
        return False
    if error in _MOVED:
        producer._sender._coordinator_dead(CoordinationType.TRANSACTION)
    elif error not in _WAIT:
        raise error()
    await asyncio.sleep(RETRY_SECONDS)
    return True
