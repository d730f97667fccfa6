"""Sending orders, at a pace, and watching them work.

Whether an order had an effect is read from the changelog, from the offsets where the messages were last looked at, so
that nothing which happens between is missed: the first change of a message after what was seen is the order's doing, or
somebody else's.  Whether the workers have had an order at all is told by the offsets that they committed, in one
transaction with what they did.  A transaction's end reaches its partitions one after the other, though: so after that
the changelog is read past everything that was written to it, not only past what is known to be committed yet.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from dlq_stream.core.commands import Order, encode_command
from dlq_stream.core.ids import partition_of
from dlq_stream.kafka import reader, writer
from dlq_stream.reading import records_between
from dlq_stream.settings import Settings
from dlq_stream.tables import messages
from dlq_stream.tables.messages import Message
from dlq_stream.view.app import AppReader, open_app
from dlq_stream.view.messages import present
from dlq_stream.view.orders import Outcome, did
from dlq_stream.view.pace import Pace

ORDERS_MAX = 100_000
"""More orders than this are not given at once; a narrower filter or a limit is asked for."""

IN_FLIGHT_MAX = 1_000
"""So many orders wait for their acknowledgement at a time."""

LOOK_SECONDS = 0.2
"""Pause between two looks at what the workers did."""


@dataclass(slots=True)
class Case:
    """One order, the message as it was seen, and what became of it."""

    order: Order
    before: Message
    after: Message | None = None
    """The first change that was seen; None where there was none, or the message is gone."""
    outcome: Outcome = Outcome.NOT_SENT
    offset: int | None = None
    """Of the order in the commands topic, once it was acknowledged."""

    def is_unsent(self) -> bool:
        """Whether its order is still to be sent."""
        return self.outcome is Outcome.NOT_SENT


@dataclass(slots=True)
class Dispatch:
    """Orders on their way; it can be looked at whenever carrying them out ended, and however."""

    cases: Sequence[Case]
    on_settled: Callable[[Case], None]
    """Called once for each order whose outcome is known."""
    sent: int = 0
    seconds: float = 0.0
    """From the first order to the last."""

    def settle(self, case: Case, outcome: Outcome) -> None:
        """This is what became of it."""
        case.outcome = outcome
        self.on_settled(case)


async def carry_out(
    settings: Settings,
    dispatch: Dispatch,
    ends: Mapping[int, int],
    *,
    rate: float | None,
    confirm_seconds: float,
) -> None:
    """Send the orders, at most ``rate`` a second, and wait until the workers have had them all.

    ``ends`` are the changelog's offsets, by partition, up to which the messages were read.  Where nothing is confirmed
    for ``confirm_seconds`` after the last order, the rest stays `Outcome.UNCONFIRMED`.
    Raises BrokersUnavailable and what aiokafka raises; ``dispatch`` then tells how far it came.
    """
    async with (
        open_app(settings, messages.TABLE.changelog(settings.app_id)) as app,
        reader(settings.connection, committed_only=False) as far,
        writer(settings.connection, linger_ms=5) as producer,
    ):
        watch = _Watch(app, far, dispatch, ends)
        await watch.look()  # what has changed since it was seen is not sent any more
        sending = asyncio.create_task(_send(app, producer, dispatch, rate))
        try:
            await watch.until_all_had(sending, confirm_seconds)
        finally:
            sending.cancel()
            await asyncio.wait([sending])


async def _send(app: AppReader, producer: AIOKafkaProducer, dispatch: Dispatch, rate: float | None) -> None:
    pace = Pace(rate, time.monotonic, asyncio.sleep)
    began = time.monotonic()
    flight: deque[asyncio.Future[Any]] = deque()
    for case in dispatch.cases:
        if not case.is_unsent():
            continue
        await pace.turn()
        if not case.is_unsent():  # it changed while its turn was waited for
            continue
        id_ = case.order.id
        digits, partition = id_.hex().encode(), partition_of(id_, app.partitions)
        future = await producer.send(app.topics.commands, encode_command(case.order), digits, partition)
        future.add_done_callback(partial(_landed, case))
        case.outcome = Outcome.UNCONFIRMED
        dispatch.sent += 1
        dispatch.seconds = time.monotonic() - began
        flight.append(future)
        while flight[0].done() or len(flight) >= IN_FLIGHT_MAX:
            await flight.popleft()
            if not flight:
                break
    await asyncio.gather(*flight)


def _landed(case: Case, future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and future.exception() is None:  # whoever awaits it raises that
        case.offset = future.result().offset


class _Watch:
    """Follows the changelog of messages, as far as it concerns orders."""

    def __init__(self, app: AppReader, far: AIOKafkaConsumer, dispatch: Dispatch, ends: Mapping[int, int]) -> None:
        self._app = app
        self._far = far
        self._dispatch = dispatch
        self._open = {case.order.id: case for case in dispatch.cases}
        topic = messages.TABLE.changelog(app.app_id)
        partitions = {partition_of(id_, app.partitions) for id_ in self._open}
        self._positions = {TopicPartition(topic, number): ends[number] for number in partitions}
        app.consumer.assign(list(self._positions))
        for place, position in self._positions.items():
            app.consumer.seek(place, position)

    async def look(self, *, past_everything: bool = False) -> None:
        """Read what has been committed by now, or wait for the end of all transactions that have written by now."""
        consumer = self._far if past_everything else self._app.consumer
        ends = await consumer.end_offsets(list(self._positions))
        async for record in records_between(self._app.consumer, self._positions, ends):
            case = self._open.get(record.key)
            if case is None:
                continue
            row = present(record.value)
            if row is not None and row.revision == case.before.revision:
                continue  # no transition: a -dlq record was written, for example
            case.after = row
            del self._open[record.key]
            done = not case.is_unsent() and did(case.order, case.before, row)
            self._dispatch.settle(case, Outcome.APPLIED if done else Outcome.CHANGED)

    async def until_all_had(self, sending: asyncio.Task[None], confirm_seconds: float) -> None:
        """Look until every order's outcome is known, or none has been for too long since all were sent."""
        quiet_since, left = time.monotonic(), len(self._open)
        while self._open:
            if sending.done():
                sending.result()
            had = list(self._had(await self._app.committed()))
            await self.look(past_everything=bool(had))
            for case in had:
                if self._open.pop(case.order.id, None) is not None:
                    self._dispatch.settle(case, Outcome.NO_EFFECT)
            if len(self._open) < left or not sending.done():
                quiet_since, left = time.monotonic(), len(self._open)
            elif time.monotonic() - quiet_since > confirm_seconds:
                break
            await asyncio.sleep(LOOK_SECONDS)
        await sending
        for case in self._open.values():
            self._dispatch.on_settled(case)

    def _had(self, committed: Mapping[tuple[str, int], int]) -> Iterable[Case]:
        topic = self._app.topics.commands
        for case in self._open.values():
            if case.offset is not None:
                partition = partition_of(case.order.id, self._app.partitions)
                if committed.get((topic, partition), 0) > case.offset:
                    yield case
