"""The product: failures come in, what is due goes out, what is old is purged.

Agents consume failure events and commands into changelog-backed tables; timers emit due retries and apply retention.
Each batch and each tick of a partition is one transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from dlq_stream.core.transaction import Transaction
from dlq_stream.engine import EmitResult, apply_commands, apply_failures, emit_due, retain
from dlq_stream.runtime.crash import Refuse, refuse
from dlq_stream.runtime.owner import Poll
from dlq_stream.runtime.process import Worker
from dlq_stream.runtime.timers import NextLook, TimerSpec
from dlq_stream.settings import Settings
from dlq_stream.tables import TABLES
from dlq_stream.topics import AppTopics
from dlq_stream.worker.assembly import WorkerApp, assemble

RAW = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
"""Keys and values stay bytes: an undecodable one must reach the engine, which quarantines it whole."""


def stream(settings: Settings, *, refuse: Refuse = refuse, process: type[Worker] = Worker) -> WorkerApp:
    """The worker's app; ``refuse`` and ``process`` say how it ends and logs under which command."""
    app = assemble(settings, refuse, process)
    topics = AppTopics(settings.app_id)
    failures = app.topic(topics.failures, partitions=settings.partitions, **RAW)
    commands = app.topic(topics.commands, partitions=settings.partitions, **RAW)
    for table in TABLES:
        table.define(app, partitions=settings.partitions)

    @app.agent(failures)
    async def take_over(polls: Any) -> None:
        """Classify what failed, store it, schedule its retry or give it up."""
        async for poll in _polls(polls):
            await app.owner.consume(poll, lambda tx, records: apply_failures(tx, records, app.engine))

    @app.agent(commands)
    async def obey(polls: Any) -> None:
        """Record outcomes of retries, and do what operators say."""
        async for poll in _polls(polls):
            await app.owner.consume(poll, lambda tx, records: apply_commands(tx, records, app.engine))

    def emit(tx: Transaction) -> EmitResult:
        """Emit what is due; before intake when both wait."""
        return emit_due(tx, app.engine, records_max=settings.emit_records_max, bytes_max=settings.emit_bytes_max)

    def purge(tx: Transaction) -> NextLook:
        """Apply retention, a bounded step at a time."""
        return NextLook(retain(tx, app.engine, steps_max=settings.retain_steps_max), now_ms=tx.now_ms)

    app.owner.timers += [
        TimerSpec("emit", "due", emit, urgent=True, with_input=True),
        TimerSpec("retain", "closed", purge, delay_ms=settings.retention_ms),
    ]
    return app


def _polls(stream: Any) -> AsyncIterator[Poll]:
    """The agent's stream as whole polls; nothing is acknowledged to Faust, offsets are part of transactions."""
    polls: AsyncIterator[Poll] = stream.noack()
    return polls
