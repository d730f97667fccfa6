"""`SyncFailureReporter`: for loops without asyncio (confluent-kafka, kafka-python, threads).

One background thread runs an event loop with a `FailureReporter` on it.  Callers make the report on their own thread,
where the error's frames are, and hand it over; so reports of many threads, and of one that `submit`s, share batches.

The thread is a daemon: a program that ends without `stop` is not held up by it.  Its end flushes what was submitted,
for as long as ``timeout_seconds`` allow.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from dlq_stream.client.delivery import Delivery
from dlq_stream.client.errors import NotStarted
from dlq_stream.client.records import AnyRecord
from dlq_stream.client.reporter import FailureReporter
from dlq_stream.core.connection import Brokers, Security
from dlq_stream.core.errors import BrokersUnavailable
from dlq_stream.core.model import ErrorCategory

GRACE_SECONDS = 5.0
"""So much longer than its time-out a call waits for the background thread, which ends the call itself in time."""
ANSWER_SECONDS_MAX = 1.0
"""So long calls that have their answer may take to pass it on, when the thread ends."""

ResultT = TypeVar("ResultT")


class SyncFailureReporter:
    """What `FailureReporter` is, for synchronous code; a context manager, and safe to use from many threads.

    The parameters are `FailureReporter`'s.  `report` and `succeeded` block until the brokers have acknowledged, one
    after the other some hundred times a second; where many records fail, `submit` them and wait for the futures.

    A started reporter does not survive `os.fork`: a child has to start its own, and is told so.  One that was made
    before the fork and is started after it works, as in servers that fork their workers.
    """

    def __init__(
        self,
        brokers: Brokers,
        group: str,
        *,
        outcomes: bool = True,
        app_id: str = "dlq-stream",
        linger_ms: int = 0,
        record_bytes_max: int | None = None,
        timeout_seconds: float = 30.0,
        security: Security | None = None,
        mask_headers: Sequence[str] | None = None,
        mask_pointers: Sequence[str] | None = None,
    ) -> None:
        self._reporter = FailureReporter(
            brokers,
            group,
            outcomes=outcomes,
            app_id=app_id,
            linger_ms=linger_ms,
            record_bytes_max=record_bytes_max,
            timeout_seconds=timeout_seconds,
            security=security,
            mask_headers=mask_headers,
            mask_pointers=mask_pointers,
        )
        self._patience_seconds = timeout_seconds + GRACE_SECONDS
        self._process = 0
        self._changing = threading.Lock()
        self._background: _Background | None = None

    @property
    def group(self) -> str:
        """The consumer group whose failures these are."""
        return self._reporter.group

    @property
    def outcomes(self) -> bool:
        """Whether outcomes of retries are reported."""
        return self._reporter.outcomes

    def start(self) -> None:
        """Start the thread, connect and look at the topics; once started, this does nothing.

        Raises as `FailureReporter.start` does; nothing is left running then.
        """
        self._refuse_child()
        with self._changing:
            if self._background is None:
                background = _Background(self._reporter)
                background.start()
                self._background, self._process = background, os.getpid()
                atexit.register(self.stop)

    def stop(self) -> None:
        """Wait for what is being reported, within the time-out, disconnect and end the thread.

        Calls of other threads that are waiting are answered first, or told `NotStarted`.
        """
        if self._process != os.getpid():
            return  # never started, or in a forked child, where nothing is its own
        with self._changing:
            background, self._background = self._background, None
            atexit.unregister(self.stop)
            if background is not None:
                background.stop(self._patience_seconds)

    def report(
        self,
        record: AnyRecord,
        error: BaseException,
        *,
        queue: str | None = None,
        category: ErrorCategory | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Hand over ``record``, which failed with ``error``; returns the message id once the brokers have it all.

        Parameters and errors are those of `FailureReporter.report`.  An interrupt (KeyboardInterrupt) ends the wait;
        the failure then counts as not handed over.
        """
        return self._wait(self.submit(record, error, queue=queue, category=category, metadata=metadata))

    def submit(
        self,
        record: AnyRecord,
        error: BaseException,
        *,
        queue: str | None = None,
        category: ErrorCategory | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Future[str]:
        """Begin what `report` does, and go on: the future has the message id, or what only the brokers could say.

        Raises at once what is wrong with the record or the arguments (UnusableRecord, ConfigurationError, TooLarge),
        and NotStarted.  Until the future is done, the record's offset must not be committed.
        """
        background = self._started()
        report = self._reporter.prepare(record, error, queue=queue, category=category, metadata=metadata)
        return background.submit(self._reporter.send(report))

    def delivery(self, record: AnyRecord) -> Delivery | None:
        """What retry the record is; None for a first delivery.  See `FailureReporter.delivery`."""
        return self._reporter.delivery(record)

    def succeeded(self, record: AnyRecord) -> None:
        """Say that processing ``record`` succeeded, and wait until the brokers have it: `FailureReporter.succeeded`."""
        self._wait(self.submit_succeeded(record))

    def submit_succeeded(self, record: AnyRecord) -> Future[None]:
        """Begin what `succeeded` does, and go on; done at once where there is nothing to say."""
        background = self._started()
        if self._reporter.outcome(record) is not None:
            return background.submit(self._reporter.succeeded(record))
        nothing: Future[None] = Future()
        nothing.set_result(None)
        return nothing

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _started(self) -> _Background:
        self._refuse_child()
        background = self._background
        if background is None:
            raise NotStarted("the reporter is not started: use it inside `with`, or call start() first")
        return background

    def _refuse_child(self) -> None:
        if self._process not in (0, os.getpid()):
            raise NotStarted(
                f"the reporter was started in process {self._process}, and this is a forked child, {os.getpid()}: "
                "threads and connections do not survive a fork; make and start a reporter in the child"
            )

    def _wait(self, future: Future[ResultT]) -> ResultT:
        try:
            return future.result(self._patience_seconds)
        except TimeoutError:
            if future.done():
                raise
            future.cancel()
            raise BrokersUnavailable(
                f"the reporter's thread did not answer within {self._patience_seconds:g} s; commit nothing"
            ) from None
        except BaseException:
            future.cancel()  # whoever interrupted us takes it for not reported, and so it should be
            raise


class _Background:
    """A thread with an event loop, on which one reporter is started, used and stopped."""

    def __init__(self, reporter: FailureReporter) -> None:
        self._reporter = reporter
        self._ready: Future[asyncio.AbstractEventLoop] = Future()
        self._end = asyncio.Event()
        self._submitting = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="dlq-stream reporter", daemon=True)

    def start(self) -> None:
        """Return when the reporter is started.  Raises what it raises."""
        self._thread.start()
        try:
            self._loop = self._ready.result()
        except BaseException:
            self._ready.cancel()  # nobody waits for it any more: an interrupt
            raise

    def submit(self, work: Coroutine[Any, Any, ResultT]) -> Future[ResultT]:
        """Run ``work`` on the loop, with the caller's context variables."""
        with self._submitting:
            if not self._ended:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise NotStarted("the reporter was stopped by another thread")

    def stop(self, seconds: float) -> None:
        """Stop the reporter and end the thread; a thread that does not end within ``seconds`` is left behind."""
        with self._submitting:  # what was submitted before is begun before
            self._ended = True
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(seconds)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        try:
            await self._reporter.start()
        except BaseException as error:
            if self._ready.set_running_or_notify_cancel():
                self._ready.set_exception(error)
            return
        if self._ready.set_running_or_notify_cancel():
            self._ready.set_result(asyncio.get_running_loop())
            await self._end.wait()
        await self._reporter.stop()
        if answering := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(answering, timeout=ANSWER_SECONDS_MAX)
