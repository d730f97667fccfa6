"""`RetryConsumer`: a consumer whose failures are looked after.

    consumer = RetryConsumer("heat-processing", group="heat-agents", handler=handle, brokers="kafka:9092")
    await consumer.run()

``handle(record)`` raises to fail and returns to succeed.  What that means is in `dlq_stream.client.work`, how the group
sees us in `dlq_stream.client.membership`; this module puts them together and holds them to a beginning and an end.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Literal

from aiokafka.errors import KafkaError

from dlq_stream.client.hands import Handler, is_generator
from dlq_stream.client.membership import Membership
from dlq_stream.client.reporter import FailureReporter
from dlq_stream.client.retry_topics import RetryTopics
from dlq_stream.client.traffic import TrafficMeter
from dlq_stream.client.work import Work
from dlq_stream.core import header_values as read
from dlq_stream.core.connection import Brokers, Security, connection_to
from dlq_stream.core.destinations import is_legal_topic
from dlq_stream.core.errors import ConfigurationError, DLQError, MalformedEvent
from dlq_stream.core.shown import shown
from dlq_stream.kafka import rights

REJOIN_SECONDS = 1.0
"""After a consumer broke, until the next one joins."""

GOODBYE_SECONDS_MAX = 3.0
"""The last traffic reports may take so long."""

log = logging.getLogger(__name__)


class RetryConsumer:
    """Reads topics as a member of a consumer group, has each record handled, and hands over what fails.

    * ``topics``: the name of the topic, or several.  ``group``: the consumer group.
    * ``handler``: called with each record (bytes, as `dlq_stream.core.model.Record` says), ``async`` or plain; plain
      ones run in threads.  It raises to fail and returns to succeed.  `Permanent` and `RetryAfter` overrule policy.
    * ``brokers``, ``security``: as `FailureReporter` takes them.  ``app_id``: whose failures topic.
    * ``queue``: whose policy applies to failures; the record's topic unless named.
    * ``reporter``: a reporter of this group to use, with options of its own; else one is made.  If it is not started,
      it is for the length of `run`.
    * ``concurrency``: so many handlers run at a time.  Records of one key of one partition are handled one after the
      other, in order; records without a key in no particular order.
    * ``retry_topics``: topics in which retries of these topics come; None asks policy: ``{topic}-retry`` and what the
      app's policies topic names.  Those that exist are read; for the others it looks every ``retry_topics_seconds``.
    * ``auto_offset_reset``: where to begin in a partition of which the group has committed nothing.  Retry topics are
      always read from the beginning.
    * ``commit_seconds``: how often what is finished is committed.  What was not is handled again after a crash.
    * ``traffic_seconds``: how often processed and failed records are counted to the system.
    * ``stop_seconds``: how long running handlers get when the consumer ends, ``revoke_seconds`` when partitions go to
      another member.  After that an ``async`` handler is cancelled (at the end), and a thread, which cannot be, is
      left to itself; their records are not committed and will be handled again.
    * ``session_seconds``: a member that is not heard of for so long is expelled from the group.
    * ``partition_records_max``, ``partition_bytes_max``: what may be fetched and unfinished of one partition, and about
      one fetch (1 MiB) more; then the partition has to wait.

    It reads at ``read_committed``: retries are written in transactions, and those that are aborted never happened.
    """

    def __init__(
        self,
        topics: str | Sequence[str],
        group: str,
        handler: Handler,
        brokers: Brokers,
        *,
        queue: str | None = None,
        app_id: str = "dlq-stream",
        reporter: FailureReporter | None = None,
        concurrency: int = 16,
        retry_topics: Sequence[str] | None = None,
        auto_offset_reset: Literal["earliest", "latest"] = "earliest",
        commit_seconds: float = 1.0,
        traffic_seconds: float = 10.0,
        retry_topics_seconds: float = 30.0,
        stop_seconds: float = 30.0,
        revoke_seconds: float = 10.0,
        session_seconds: float = 10.0,
        partition_records_max: int = 2_000,
        partition_bytes_max: int = 8 << 20,
        security: Security | None = None,
    ) -> None:
        self._brokers = connection_to(brokers, security)
        self.topics = _checked_topics("topics", [topics] if isinstance(topics, str) else topics)
        if not self.topics:
            raise ConfigurationError("topics: none is named")
        self.reporter = _checked_reporter(reporter, group) or FailureReporter(self._brokers, group, app_id=app_id)
        self.group = self.reporter.group
        self._handler = _checked_handler(handler)
        self._queue = _checked_queue(queue)
        self._reset = _one_of("auto_offset_reset", auto_offset_reset, ("earliest", "latest"))
        self._concurrency = _at_least_one("concurrency", concurrency)
        self._records_max = _at_least_one("partition_records_max", partition_records_max)
        self._bytes_max = _at_least_one("partition_bytes_max", partition_bytes_max)
        self._commit_seconds = _seconds("commit_seconds", commit_seconds)
        self._traffic_seconds = _seconds("traffic_seconds", traffic_seconds)
        self._retry_topics_seconds = _seconds("retry_topics_seconds", retry_topics_seconds)
        self._stop_seconds = _seconds("stop_seconds", stop_seconds, least=0)
        self._revoke_seconds = _seconds("revoke_seconds", revoke_seconds, least=0)
        self._session_seconds = _seconds("session_seconds", session_seconds, least=1)
        given = None if retry_topics is None else _checked_topics("retry_topics", retry_topics)
        self._retries = RetryTopics(
            self._brokers, self.reporter.app_id, self.group, self.topics, queue=self._queue, given=given
        )
        self._known: frozenset[str] = frozenset()
        self._stop = asyncio.Event()
        self._meter = TrafficMeter(self.group, 0)
        self._running = False

    def stop(self) -> None:
        """Ask `run` to end; it does so within ``stop_seconds`` and a few more.  For signal handlers, too.

        Returns at once, and may be called again.  To be called on the loop that `run` runs on.
        """
        self._stop.set()

    async def run(self) -> None:
        """Read and handle until `stop` is called; cancelling this ends it in the same order.

        Survives brokers that restart or are away.  Raises ConfigurationError for a topic that is missing or may not be
        read or written, BrokersUnavailable where no broker answers at the start, and what a handler raises that is no
        `Exception` (`KeyboardInterrupt`, `SystemExit`).  What is not finished then is not committed.
        """
        if self._running:
            raise ConfigurationError("the consumer runs already: make one of its own for each run at a time")
        self._running = True
        try:
            await self._run()
        finally:
            self._running = False
            self._stop = asyncio.Event()  # the next run may be on another loop

    async def _run(self) -> None:
        ours = not self.reporter.is_started
        await self.reporter.start()
        try:
            await self._retries.check_sources()
            self._known = await self._retries.look()
            self._meter = TrafficMeter(self.group, _now_ms())
            work = Work(
                self._handler,
                self.reporter,
                self._meter,
                group=self.group,
                queue=self._queue,
                concurrency=self._concurrency,
                records_max=self._records_max,
                bytes_max=self._bytes_max,
            )
            try:
                while not self._stop.is_set():
                    await self._take_part(work)
            finally:
                await work.finish(0)
                await self._say_goodbye()
            work.check()
        finally:
            if ours:
                await self.reporter.stop()

    async def _take_part(self, work: Work) -> None:
        """Be a member of the group, until we are to stop or this membership breaks."""
        membership = Membership(
            work,
            self._brokers,
            self.group,
            auto_offset_reset=self._reset,
            session_seconds=self._session_seconds,
            revoke_seconds=self._revoke_seconds,
        )
        broken = False
        try:
            with rights(topic="Read"):
                await self._belong(work, membership)
        except KafkaError as error:
            work.check()  # else it is no error of this membership's
            log.warning("group %s: this consumer cannot go on, another one will join: %r", self.group, error)
            await work.let_go(work.ours(), self._revoke_seconds)
            broken = True
        finally:
            await self._part(work, membership, for_good=not broken)
        if broken:
            with suppress(TimeoutError):
                async with asyncio.timeout(REJOIN_SECONDS):
                    await self._stop.wait()

    async def _belong(self, work: Work, membership: Membership) -> None:
        """Join, read, commit and tell, until we are to stop; raises what ends it earlier."""
        await _first_of(membership.join(self.topics, self._known), self._stop.wait())
        if self._stop.is_set():
            return
        await _first_of(
            membership.poll(),
            self._every(self._commit_seconds, membership.commit),
            self._every(self._retry_topics_seconds, lambda: self._look(membership)),
            self._every(self._traffic_seconds, self._tell_traffic),
            self._stop.wait(),
            _outcome(work.failure),
        )

    async def _part(self, work: Work, membership: Membership, *, for_good: bool) -> None:
        """Commit what is finished and leave; at the end of it all, let handlers finish first.

        Who is cancelled meanwhile does not wait any longer, but goes through the rest of it.
        """
        try:
            if for_good:
                await work.finish(self._stop_seconds)
        finally:
            try:
                await membership.commit()
            except KafkaError as error:
                log.warning("group %s: the last commit failed: %r", self.group, error)
            finally:
                await membership.leave()

    async def _every(self, seconds: float, what: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await what()

    async def _look(self, membership: Membership) -> None:
        try:
            found = await self._retries.look()
        except DLQError as error:  # what comes in the others must go on being handled
            log.warning("retry topics could not be looked for: %s", error)
            return
        if not found <= self._known:
            log.info("retries come in %s, too", ", ".join(sorted(found - self._known)))
            self._known |= found
            membership.subscribe(self.topics, self._known)

    async def _tell_traffic(self) -> None:
        """Send what was counted; what cannot be sent is part of the next report."""
        reports = self._meter.take(_now_ms())
        for number, report in enumerate(reports):
            try:
                await self.reporter.traffic(report)
            except BaseException as error:
                for unsent in reports[number:]:
                    self._meter.put_back(unsent)
                if not isinstance(error, DLQError):
                    raise
                log.warning("traffic could not be reported: %s", error)
                return

    async def _say_goodbye(self) -> None:
        try:
            async with asyncio.timeout(GOODBYE_SECONDS_MAX):
                await self._tell_traffic()
        except TimeoutError:
            log.warning("the last traffic report was not acknowledged within %g s", GOODBYE_SECONDS_MAX)


async def _first_of(*many: Coroutine[Any, Any, object]) -> None:
    """Run all until one ends, then end the others; raises what any of them raised, the first first."""
    tasks = [asyncio.create_task(each) for each in many]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if task in done:
            task.result()


async def _outcome(future: asyncio.Future[None]) -> None:
    await asyncio.shield(future)


def _now_ms() -> int:
    return int(time.time() * 1000)


# --- parameters -------------------------------------------------------------------------------------------------------


def _checked_topics(what: str, topics: Sequence[str]) -> tuple[str, ...]:
    if isinstance(topics, str):
        raise ConfigurationError(f"{what}: {shown(topics)} is one text, not a list of names")
    for topic in topics:
        if not is_legal_topic(topic):
            raise ConfigurationError(f"{what}: {shown(topic)} is not the name of a topic; patterns are not taken")
    return tuple(dict.fromkeys(topics))


def _checked_reporter(reporter: FailureReporter | None, group: str) -> FailureReporter | None:
    if reporter is not None and reporter.group != group:
        raise ConfigurationError(f"reporter: is of group {shown(reporter.group)}, the consumer's is {shown(group)}")
    if reporter is not None and not reporter.outcomes:
        raise ConfigurationError("reporter: outcomes=False; the consumer reports what became of retries")
    return reporter


def _checked_handler(handler: Handler) -> Handler:
    if not callable(handler):
        raise ConfigurationError(f"handler: {shown(handler)} cannot be called")
    if is_generator(handler):
        raise ConfigurationError("handler: there is a `yield` in it, so calling it runs nothing of it: remove that")
    return handler


def _checked_queue(queue: str | None) -> str | None:
    if queue is None:
        return None
    try:
        return read.queue("queue", queue.encode())
    except (MalformedEvent, AttributeError, UnicodeEncodeError) as wrong:
        raise ConfigurationError(f"queue: {shown(queue)} is not the name of a queue: {wrong}") from None


def _one_of(what: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigurationError(f"{what}: {shown(value)} is not one of {', '.join(known)}")
    return value


def _at_least_one(what: str, value: int) -> int:
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"{what}: {shown(value)} is not a whole number of 1 or more")
    return value


def _seconds(what: str, value: float, *, least: float = 0.05) -> float:
    if not (math.isfinite(value) and value >= least):
        raise ConfigurationError(f"{what}: {shown(value)} is not a number of seconds from {least:g} on")
    return float(value)
