"""Puts a worker together: engine, Faust app, partitions and what they are made of."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn

from dlq_stream.core.classification import Classifier
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.policy import Policies, RetryPolicy
from dlq_stream.engine import Engine
from dlq_stream.kafka import client_options
from dlq_stream.kafka_security import refusal_of
from dlq_stream.runtime.app import App
from dlq_stream.runtime.changelog import KafkaChangelog, StateOrigin
from dlq_stream.runtime.crash import Refuse, crash
from dlq_stream.runtime.destinations import DestinationCache
from dlq_stream.runtime.feed import BatchLimits
from dlq_stream.runtime.follower import KafkaFollower
from dlq_stream.runtime.outcomes import Identification
from dlq_stream.runtime.owner import Owner
from dlq_stream.runtime.partition import Partition
from dlq_stream.runtime.process import Worker
from dlq_stream.runtime.producer import KafkaProducer
from dlq_stream.runtime.rocks import RocksStore
from dlq_stream.runtime.standby import Standby
from dlq_stream.runtime.topic_source import KafkaTopicSource
from dlq_stream.runtime.transport import credentials_of
from dlq_stream.settings import Settings
from dlq_stream.topics import AppTopics, Verified
from dlq_stream.topics.sources import readers_of
from dlq_stream.worker.allocator import give_back_after_work
from dlq_stream.worker.bystanders import Bystanders
from dlq_stream.worker.collector import collect_now_and_then
from dlq_stream.worker.observer import Observer
from dlq_stream.worker.policies import PolicyFollower
from dlq_stream.worker.preparation import prepare
from dlq_stream.worker.regex import compile_regex

TOPIC_EXTRA_BYTES = 65_536
"""What app topics take beyond ``record_bytes_max`` (see `dlq_stream.topics.plan`)."""

POLL_INTERVAL_SECONDS_MAX = 3600.0
"""Longest restore before the group gives up on the worker."""

POLLS_QUEUED_MAX = 1
"""Polls that may wait for an agent; each is bounded by the fetch size."""


class SystemClock:
    """`dlq_stream.runtime.ports.Clock`: the machine's."""

    def now_ms(self) -> int:
        """See `Clock.now_ms`."""
        return time.time_ns() // 1_000_000


class WorkerApp(App):
    """The Faust app with what has to happen around it.

    ``engine`` is what the next transaction is staged with; it is another one whenever a policy changes.
    """

    def __init__(self, settings: Settings, **options: Any) -> None:
        self.settings = settings
        self.bystanders = Bystanders(partial(readers_of, settings), lambda: self.engine.policies)
        self.observer = Observer(self.bystanders.emitted)
        self.engine = engine_of(settings, self.observer)
        self.policies = PolicyFollower(
            settings.connection,
            AppTopics(settings.app_id).policies,
            settings.partitions,
            self.engine.policies,
            self.go_by,
            check=self.engine.classifier_for,  # which refuses what RE2 does not understand
        )
        self.verified: Verified | None = None
        self.staging = asyncio.Lock()
        self.destinations = DestinationCache(
            KafkaTopicSource(
                kafka_options(settings),
                dead_letter_retention_ms=settings.retention_ms,
                replication_factor=settings.replication_factor,
                partitions=settings.partitions,
                record_bytes_max=settings.record_bytes_max,
            )
        )
        super().__init__(settings.app_id, **options)

    async def on_first_start(self) -> None:
        """Check everything before the group is joined, unless ``dlq-stream worker`` has done so already."""
        if self.verified is None:
            self.verified = await prepare(self.settings)
        try:
            await self.policies.read(self.settings.wait_seconds)
        except ConfigurationError as error:
            self.refuse(error)
        await self.destinations.look_up(AppTopics(self.settings.app_id).all)
        await super().on_first_start()

    def go_by(self, policies: Policies) -> None:
        """Decide by these policies from the next transaction on.

        One that is being staged in steps keeps to those of its first step: `Turn.of` holds on to that one's engine.
        """
        self.engine = replace(self.engine, policies=policies)

    def new_partition(self, number: int, generation: int) -> Partition:
        """A partition on RocksDB and Kafka, not opened yet."""
        settings = self.settings
        clock = SystemClock()
        store = self._store(number)
        options = kafka_options(settings)
        row_bytes_max = settings.record_bytes_max + TOPIC_EXTRA_BYTES
        return Partition(
            Identification(number, settings.partitions, generation, settings.app_id),
            producer=KafkaProducer(
                f"{AppTopics(settings.app_id).worker_transactions}{number}",
                group=settings.app_id,
                partition=number,
                options=options,
                transaction_timeout_seconds=settings.transaction_timeout_seconds,
                request_bytes_max=max(row_bytes_max, settings.batch_bytes_max) + TOPIC_EXTRA_BYTES * 2,
                missing=self.destinations.missing,
            ),
            store=store,
            changelog=KafkaChangelog(number, store, self._origin(), clock, options),
            destinations=self.destinations,
            clock=clock,
            row_bytes_max=row_bytes_max,
            still_ours=lambda: self.consumer.generation == generation,
            confirm=lambda: self.consumer.confirm_membership(),
            fatal=self.fatal,
            staging=self.staging,
        )

    def new_standby(self, number: int) -> Standby:
        """A copy of a partition that another worker owns, in the directory where it would be if it were ours."""
        store = self._store(number)
        changelog = KafkaFollower(number, store, self._origin(), SystemClock(), kafka_options(self.settings))
        return Standby(number, store=store, changelog=changelog, refuse=self.refuse, fatal=self.fatal)

    async def give_memory_back(self) -> None:
        """Whenever there is nothing more to do."""
        await give_back_after_work(lambda: self.owner.held_bytes == 0)

    def _store(self, number: int) -> RocksStore:
        return RocksStore(self.settings.data_dir / self.settings.app_id / f"p{number}")

    def _origin(self) -> StateOrigin:
        settings, verified = self.settings, self.verified
        assert verified is not None  # on_first_start came first
        return StateOrigin(settings.app_id, verified.cluster_id, settings.partitions, verified.tombstones_kept_ms)


def assemble(settings: Settings, refuse: Refuse, process: type[Worker]) -> WorkerApp:
    """The app without agents and timers."""
    options = {"Worker": process, **faust_settings(settings)}
    app = WorkerApp(settings, web=web_settings(settings), refuse=refuse, fatal=refuse_or_crash(refuse), **options)
    app.owner = Owner(
        new_partition=app.new_partition,
        new_standby=app.new_standby,
        seek=lambda topic, partition, position: app.consumer.read_from(topic, partition, position),
        destinations=app.destinations,
        limits=BatchLimits(
            bytes_max=settings.batch_bytes_max,
            hold_ms_target=settings.batch_hold_ms_target,
            held_bytes_max=settings.buffer_bytes_max // 2,
            fetch_bytes_max=settings.buffer_bytes_max // 4,
        ),
        fatal=app.fatal,
    )
    app.task(app.destinations.run)
    app.task(app.policies.run)
    app.task(app.observer.run)
    app.task(app.bystanders.run)
    app.task(collect_now_and_then)
    app.task(app.give_memory_back)
    return app


def refuse_or_crash(refuse: Refuse) -> Callable[[str, BaseException], NoReturn]:
    """How a worker ends where something went wrong: what lacks a right or a setting is not cured by starting again."""

    def end(where: str, error: BaseException) -> NoReturn:
        known = error if isinstance(error, ConfigurationError) else refusal_of(error)
        if known is not None:
            refuse(known)
        crash(where, error)

    return end


def engine_of(settings: Settings, observer: Observer) -> Engine:
    """What the engine needs to know of the settings."""
    # By rules, not by queue: whoever sends events names queues, and making a classifier takes its time.
    classifier_of = lru_cache(maxsize=settings.queues_max)(partial(Classifier, compile_regex=compile_regex))

    def classifier_for(policy: RetryPolicy) -> Classifier:
        return classifier_of(policy.rules)

    return Engine(
        app_id=settings.app_id,
        policies=settings.policies(),
        classifier_for=classifier_for,
        observe=observer,
        allowed_topics=settings.allowed_topics,
        attempts_kept_max=settings.attempts_kept_max,
        queues_max=settings.queues_max,
        retention_ms=settings.retention_ms,
    )


def kafka_options(settings: Settings) -> dict[str, Any]:
    """Addresses, security and name for every client of ours."""
    return {**client_options(settings.connection), "client_id": f"{settings.app_id}-worker"}


def web_settings(settings: Settings) -> dict[str, Any]:
    """Loopback only; nothing but our own pages is served.

    Faust's assignor puts the URL into the group's assignment and insists on reading the same one back.  A static member
    that restarts is given its former assignment, so its URL must not depend on a port that may be another one now.
    """
    name = settings.instance_id or f"{socket.gethostname()}-{os.getpid()}"
    return {
        "web_enabled": True,
        "web_bind": "127.0.0.1",
        "web_port": settings.web_port,
        "web_host": "127.0.0.1",
        "canonical_url": f"http://{name}",
    }


def faust_settings(settings: Settings) -> dict[str, Any]:
    """Faust's settings that follow from ours."""
    fetch_bytes = settings.buffer_bytes_max // (4 * settings.partitions)  # one for each partition of both inputs: half
    return {
        "broker": ";".join(f"kafka://{address}" for address in settings.connection.brokers),
        "broker_credentials": credentials_of(settings.connection.security),
        "datadir": Path(settings.data_dir) / settings.app_id,
        "topic_partitions": settings.partitions,
        "table_standby_replicas": settings.standby_replicas,
        "consumer_group_instance_id": settings.instance_id,
        "consumer_auto_offset_reset": "earliest",
        "consumer_max_fetch_size": min(1 << 20, max(1, fetch_bytes)),  # a broker sends one batch at least
        "broker_max_poll_records": settings.poll_records_max,
        "broker_max_poll_interval": POLL_INTERVAL_SECONDS_MAX,
        "broker_session_timeout": settings.session_timeout_seconds,
        "broker_heartbeat_interval": min(1.0, settings.session_timeout_seconds / 3),
        "broker_rebalance_timeout": settings.session_timeout_seconds,
        "broker_request_timeout": max(40.0, settings.session_timeout_seconds + 5),
        "stream_buffer_maxsize": POLLS_QUEUED_MAX,
        "producer_acks": -1,
    }
