"""Kafka clients of ours, made so that none of them ever creates a topic by looking at it.

A metadata request that names a topic which does not exist makes the broker create it, where the broker allows
automatic creation (its default) and the request does too.  aiokafka's requests always do: `MetadataRequest` takes
``allow_auto_topic_creation``, and neither the client nor the admin client ever passes it.  So a producer that still
remembers a topic brings it back, empty and with default settings, seconds after an operator deleted it.

`no_topic_creation` closes that for one client: every request leaves through a connection, so that is where the flag is
set, whoever made the request.  The class of this one instance and of its connections is replaced by a subclass;
nothing is patched for other users of aiokafka in the same process.  aiokafka 0.12 sends a version of the request that
has no such flag; it is replaced by one that has it (version 4, brokers since 0.11).

This module knows aiokafka and addresses, but neither our settings nor our topics: agents' processes import it as well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
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

from dlq_stream.core.errors import BrokersUnavailable

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


def split_brokers(brokers: str | Sequence[str]) -> list[str]:
    """``"a:9092, b:9092"`` as a list of addresses."""
    parts: Iterable[str] = brokers.split(",") if isinstance(brokers, str) else brokers
    return [part.strip() for part in parts if part.strip()]


async def wait_for_brokers(brokers: str | Sequence[str], wait_seconds: float) -> None:
    """Return as soon as one of ``brokers`` answers a metadata request.

    Raises BrokersUnavailable, naming the addresses and the last problem, after ``wait_seconds``; there is always one
    try.  Tries are made quietly: aiokafka's own would log an error each.
    """
    addresses = split_brokers(brokers)
    deadline = time.monotonic() + wait_seconds
    waiting = False
    while True:
        problem = ""
        for address in addresses:
            problem = await _problem_of(address, max(1.0, deadline - time.monotonic()))
            if not problem:
                return
        if not waiting:
            log.info("waiting up to %g s for brokers: %s", wait_seconds, problem)
            waiting = True
        if time.monotonic() + _RETRY_SECONDS >= deadline:
            raise BrokersUnavailable(
                f"no Kafka broker answered at {', '.join(addresses)} within {wait_seconds:g} s ({problem}); "
                f"check --brokers / DLQ_BROKERS and that Kafka is up"
            )
        await asyncio.sleep(_RETRY_SECONDS)


async def _problem_of(address: str, seconds: float) -> str:
    """Why ``address`` does not answer as a Kafka broker; empty where it does."""
    host, _, port = address.rpartition(":") if ":" in address else (address, ":", "9092")
    seconds = min(seconds, CONNECT_SECONDS_MAX)
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.close()
        client = AIOKafkaClient(bootstrap_servers=address, request_timeout_ms=int(seconds * 1000))
        try:
            async with asyncio.timeout(seconds):
                await client.bootstrap()
        finally:
            await client.close()
    except TimeoutError:
        return f"{address}: no answer"
    except (OSError, KafkaError, ValueError) as error:
        return f"{address}: {error}"
    return ""


@asynccontextmanager
async def admin_client(brokers: str | Sequence[str], *, request_timeout_ms: int = 15_000) -> AsyncIterator[Any]:
    """A started `AIOKafkaAdminClient` that creates topics only when told to, closed at the end."""
    client = no_topic_creation(
        AIOKafkaAdminClient(
            bootstrap_servers=split_brokers(brokers),
            client_id="dlq-stream-admin",
            request_timeout_ms=request_timeout_ms,
        )
    )
    try:
        await client.start()
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def reader(brokers: str | Sequence[str], *, group: str | None = None) -> AsyncIterator[Any]:
    """A started `AIOKafkaConsumer` for bytes at ``read_committed``, without subscription and without commits."""
    consumer = no_topic_creation(
        AIOKafkaConsumer(
            bootstrap_servers=split_brokers(brokers),
            client_id="dlq-stream-reader",
            group_id=group,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
    )
    try:
        await consumer.start()
        yield consumer
    finally:
        await stop_consumer(consumer)


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
async def writer(brokers: str | Sequence[str], **options: Any) -> AsyncIterator[Any]:
    """A started idempotent `AIOKafkaProducer` (acks=all) for bytes; ``options`` go to aiokafka."""
    producer = no_topic_creation(
        AIOKafkaProducer(
            bootstrap_servers=split_brokers(brokers),
            client_id="dlq-stream-writer",
            enable_idempotence=True,
            acks="all",
            **options,
        )
    )
    try:
        await producer.start()
        yield producer
    finally:
        await producer.stop()
