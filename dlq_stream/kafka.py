"""Kafka clients of ours, made so that none of them ever creates a topic by looking at it.

A metadata request that names a topic which does not exist makes the broker create it, where the broker allows
automatic creation (its default) and the request does too.  aiokafka's requests always do: `MetadataRequest` takes
``allow_auto_topic_creation``, and neither the client nor the admin client ever passes it.  So a producer that still
remembers a topic brings it back, empty and with default settings, seconds after an operator deleted it.

`no_topic_creation` closes that for one client: every request leaves through a connection, so that is where the flag is
set, whoever made the request.  The class of this one instance and of its connections is replaced by a subclass;
nothing is patched for other users of aiokafka in the same process.  aiokafka 0.12 sends a version of the request that
has no such flag; it is replaced by one that has it (version 4, brokers since 0.11).

Every function that makes a client takes addresses or a `dlq_stream.core.connection.Connection`, which also says how to
be let in; whoever makes one of aiokafka's clients alone makes it from `client_options`.

This module knows aiokafka and connections, but neither settings nor topics: agents' processes import it as well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import (
    CoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    RequestTimedOutError,
    StaleMetadata,
)
from aiokafka.protocol.metadata import MetadataRequest

from dlq_stream.core.connection import Brokers, Connection, connection_to
from dlq_stream.core.errors import BrokersUnavailable
from dlq_stream.kafka_probe import problem_of
from dlq_stream.kafka_security import client_options, refusal_of

__all__ = [
    "UNREACHABLE",
    "admin_client",
    "client_options",
    "no_topic_creation",
    "on_coordinator_lost",
    "reader",
    "rights",
    "stop_consumer",
    "wait_for_brokers",
    "writer",
]

log = logging.getLogger(__name__)

UNREACHABLE = (
    KafkaConnectionError,
    NodeNotReadyError,
    RequestTimedOutError,
    StaleMetadata,
    CoordinatorNotAvailableError,
    TimeoutError,
)
"""Errors that mean "nobody there at the moment", not "you are wrong"."""

CONNECT_SECONDS_MAX = 5.0
"""One try to connect to one address takes at most this long; then the next address has its turn."""

_RETRY_SECONDS = 0.2
_METADATA = 3  # the API key of metadata requests
_FLAG_VERSION = 4  # the first that has allow_auto_topic_creation

ClientT = TypeVar("ClientT")


class _QuietConnection(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka has no types
    """A connection whose metadata requests never create topics."""

    def send(self, request: Any, expect_response: bool = True) -> Any:
        """Removes: every metadata request of aiokafka's lets the brokers create the topics that it names."""
        return super().send(_forbid(request), expect_response)


class _QuietClient(AIOKafkaClient):  # type: ignore[misc]  # aiokafka has no types
    """A client that hands out quiet connections only, and has patience with a cluster that is coming up."""

    on_lost: Callable[[Any], None] | None = None

    def _on_connection_closed(self, conn: Any, reason: Any) -> None:
        """As aiokafka does, and tell `on_lost`, but not where it was closed for a rest or for good."""
        super()._on_connection_closed(conn, reason)
        if self.on_lost is not None and reason not in (CloseReason.SHUTDOWN, CloseReason.IDLE_DROP):
            self.on_lost(getattr(conn, "group", None))

    async def _get_conn(self, node_id: Any, *, group: Any = ConnectionGroup.DEFAULT, **options: Any) -> Any:
        """Removes: the same for connections that are opened later than `no_topic_creation` was called."""
        conn = _silence(await super()._get_conn(node_id, group=group, **options))
        if conn is not None:
            conn.group = group  # when it is lost, the client may have forgotten it already
        return conn

    async def coordinator_lookup(self, coordinator_type: Any, coordinator_key: Any) -> Any:
        """Removes: an assertion where a cluster has no broker at work, as right after its only one was frozen.

        aiokafka keeps the connection that it asked, to ask again; whoever looks for a coordinator does so after this
        error.
        """
        if self.get_random_node() is None:
            raise CoordinatorNotAvailableError("the cluster knows of no broker at work yet")
        return await super().coordinator_lookup(coordinator_type, coordinator_key)


def _forbid(request: Any) -> Any:
    """The request as it leaves: metadata requests with the flag off, all others untouched."""
    if getattr(request, "API_KEY", None) != _METADATA:
        return request
    versions: Any = MetadataRequest
    if isinstance(versions, list):  # aiokafka 0.12: one class per version, and the client uses version 1
        return versions[max(_FLAG_VERSION, request.API_VERSION)](request.topics, False)
    request._allow_auto_topic_creation = False
    return request


def _silence(connection: Any) -> Any:
    if type(connection) is AIOKafkaConnection:
        connection.__class__ = _QuietConnection
    return connection


def no_topic_creation(client: ClientT) -> ClientT:
    """Make this producer, consumer, admin client or bare client never create a topic; returns the same object.

    Best called before ``start()``; connections that are open already are covered too.  Calling it twice is harmless.
    Raises TypeError where the object holds no aiokafka client.
    """
    inner: Any = client
    for name in ("client", "_client"):  # the producer's name, then the consumer's and the admin client's
        inner = getattr(client, name, inner)
    if not isinstance(inner, AIOKafkaClient):
        raise TypeError(f"not a client of aiokafka: {client!r}")
    if type(inner) is AIOKafkaClient:
        inner.__class__ = _QuietClient
        for connection in inner._conns.values():
            _silence(connection)
    return client


def on_coordinator_lost(client: AIOKafkaClient, told: Callable[[], None]) -> None:
    """Have ``told`` called whenever a connection to a coordinator breaks; of a client without topic creation."""

    def lost(group: ConnectionGroup) -> None:
        if group is ConnectionGroup.COORDINATION:
            told()

    if not isinstance(client, _QuietClient):
        raise TypeError(f"not a client that `no_topic_creation` made: {client!r}")
    client.on_lost = lost


async def wait_for_brokers(brokers: Brokers, wait_seconds: float) -> None:
    """Return as soon as one of ``brokers`` lets us in and answers a metadata request.

    Raises BrokersUnavailable, naming the addresses and the last problem, after ``wait_seconds``; there is always one
    try.  Raises ConfigurationError at once where TLS or authentication fails, which no waiting changes.  Tries are made
    quietly: aiokafka's own would log an error each.
    """
    connection = connection_to(brokers)
    deadline = time.monotonic() + wait_seconds
    waiting = False
    while True:
        problem = ""
        for address in connection.brokers:
            seconds = min(CONNECT_SECONDS_MAX, max(1.0, deadline - time.monotonic()))
            problem = await problem_of(address, connection.security, seconds)
            if not problem:
                return
        if not waiting:
            log.info("waiting up to %g s for brokers: %s", wait_seconds, problem)
            waiting = True
        if time.monotonic() + _RETRY_SECONDS >= deadline:
            raise BrokersUnavailable(
                f"no Kafka broker answered at {', '.join(connection.brokers)} within {wait_seconds:g} s ({problem}); "
                f"check --brokers / DLQ_BROKERS and that Kafka is up"
            )
        await asyncio.sleep(_RETRY_SECONDS)


async def _start(client: Any, connection: Connection) -> None:
    """Start a client; where none of the addresses would do, say which and why if that is final."""
    try:
        await client.start()
    except KafkaConnectionError:
        for address in connection.brokers:
            await problem_of(address, connection.security, CONNECT_SECONDS_MAX)
        raise


@contextmanager
def rights(topic: str, group: str = "Read") -> Iterator[None]:
    """Say of a refusal which operation on which resource was meant: ``topic`` and ``group`` are what is done to these.

    Raises NotAllowed then.
    """
    try:
        yield
    except KafkaError as error:
        refusal = refusal_of(error, topic=topic, group=group)
        if refusal is None:
            raise
        raise refusal from error


@asynccontextmanager
async def admin_client(brokers: Brokers, *, request_timeout_ms: int = 15_000) -> AsyncIterator[Any]:
    """A started `AIOKafkaAdminClient` that creates topics only when told to, closed at the end."""
    connection = connection_to(brokers)
    client = no_topic_creation(
        AIOKafkaAdminClient(
            **client_options(connection), client_id="dlq-stream-admin", request_timeout_ms=request_timeout_ms
        )
    )
    try:
        await _start(client, connection)
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def reader(brokers: Brokers, *, group: str | None = None, committed_only: bool = True) -> AsyncIterator[Any]:
    """A started `AIOKafkaConsumer` for bytes, without subscription and without commits; by default ``read_committed``.

    Its end offsets are those of its isolation level: before the first open transaction, or past everything.
    A topic that may not be read is NotAllowed.
    """
    connection = connection_to(brokers)
    consumer = no_topic_creation(
        AIOKafkaConsumer(
            **client_options(connection),
            client_id="dlq-stream-reader",
            group_id=group,
            isolation_level="read_committed" if committed_only else "read_uncommitted",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
    )
    try:
        with rights(topic="Read"):
            await _start(consumer, connection)
            yield consumer
    finally:
        await stop_consumer(consumer)


def group_consumer(brokers: Brokers, group: str, **options: Any) -> AIOKafkaConsumer:
    """A consumer for bytes at ``read_committed`` that commits when it is told to; not started, without subscription.

    ``options`` go to aiokafka.
    """
    return no_topic_creation(
        AIOKafkaConsumer(
            **client_options(brokers),
            group_id=group,
            isolation_level="read_committed",
            enable_auto_commit=False,
            **options,
        )
    )


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer; its connections are closed afterwards, whatever its brokers do.

    Removes: aiokafka's fetcher cancels its own requests, and where one was pausing after an error (brokers are away) it
    takes that for the cancellation of whoever stops it: a `CancelledError` that nobody sent, and connections left open.
    """
    fetcher: Any = consumer._fetcher
    if fetcher is not None:  # else it was never started
        tasks = [fetcher._fetch_task, *fetcher._pending_tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        fetcher._pending_tasks.clear()
    await consumer.stop()


@asynccontextmanager
async def writer(brokers: Brokers, **options: Any) -> AsyncIterator[Any]:
    """A started idempotent `AIOKafkaProducer` (acks=all) for bytes; ``options`` go to aiokafka.

    A topic or transactional id that may not be written to is NotAllowed.
    """
    connection = connection_to(brokers)
    producer = no_topic_creation(
        AIOKafkaProducer(
            **client_options(connection),
            client_id="dlq-stream-writer",
            enable_idempotence=True,
            acks="all",
            **options,
        )
    )
    try:
        with rights(topic="Write"):
            await _start(producer, connection)
            yield producer
    finally:
        await producer.stop()
