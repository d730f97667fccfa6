"""Waiting for brokers that are not there."""

from __future__ import annotations

import socket
import time

import pytest
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import CoordinatorNotAvailableError

from dlq_stream.core.errors import BrokersUnavailable
from dlq_stream.kafka import no_topic_creation, wait_for_brokers


async def test_nobody_there() -> None:
    """After the time given the error names every address and the last problem."""
    started = time.monotonic()
    with pytest.raises(BrokersUnavailable, match=r"127\.0\.0\.1:1, no-such-host\.invalid:9092 within 0\.5 s"):
        await wait_for_brokers("127.0.0.1:1,no-such-host.invalid:9092", 0.5)
    assert time.monotonic() - started < 30


async def test_somebody_who_does_not_speak_kafka() -> None:
    """A server that accepts and says nothing is no broker, and does not make anybody wait for ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(BrokersUnavailable, match=r"no answer|Unable to bootstrap"):
            await wait_for_brokers(f"127.0.0.1:{port}", 0)


def test_only_clients_can_be_made_quiet() -> None:
    """Anything else is a mistake of the caller."""
    with pytest.raises(TypeError, match="not a client of aiokafka"):
        no_topic_creation(object())


async def test_a_cluster_without_a_broker_at_work_is_asked_again() -> None:
    """It may answer before its only broker counts itself in; aiokafka, left alone, asserts."""
    theirs, ours = AIOKafkaClient(), no_topic_creation(AIOKafkaClient())
    try:
        with pytest.raises(AssertionError, match="bootstrap"):
            await theirs.coordinator_lookup(CoordinationType.TRANSACTION, "p0")
        with pytest.raises(CoordinatorNotAvailableError) as raised:
            await ours.coordinator_lookup(CoordinationType.TRANSACTION, "p0")
        assert raised.value.retriable
    finally:
        await theirs.close()
        await ours.close()
