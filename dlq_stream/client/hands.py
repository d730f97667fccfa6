"""Who calls the handler: so many workers, tasks for an ``async`` one and threads for a plain one.

Workers live as long as the consumer and take what is ready from one queue, so that a record costs neither a task nor a
thread of its own.  A handler that never waits would keep the loop, and the membership of the group with it, from
running: after `SLICE_SECONDS` a worker lets others have their turn.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from dlq_stream.client.current import handling
from dlq_stream.client.place import Job
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.model import Record

SLICE_SECONDS = 0.005
CANCEL_SECONDS_MAX = 1.0
"""So long a handler that is cancelled may take to end."""

log = logging.getLogger(__name__)

AsyncHandler = Callable[[Record], Awaitable[object]]
PlainHandler = Callable[[Record], object]
Handler = AsyncHandler | PlainHandler

Ended = Callable[[Job, BaseException | None, bool], None]
"""Told on the loop of each run of the handler: what it raised, and whether it reported the record itself."""

Failed = Callable[[BaseException, Job | None], None]
"""Told of what nobody can go on after, and of the record whose handler raised it; that one has not ended."""


class Hands(Protocol):
    """The workers."""

    def put(self, job: Job) -> None:
        """Have the record handled when it is its turn."""
        ...

    def take_back(self) -> list[Job]:
        """What was put and is not begun, in order; it will not be handled."""
        ...

    async def stop(self) -> None:
        """End the workers: runs of an ``async`` handler are cancelled, a thread ends with the run that it is in."""
        ...


def hands_for(handler: Handler, count: int, ended: Ended, failed: Failed) -> Hands:
    """So many workers for ``handler``, at work; ``failed`` is told of what must not happen."""
    if is_async(handler):
        return TaskHands(handler, count, ended, failed)  # type: ignore[arg-type]  # is_async said so
    return ThreadHands(handler, count, ended, failed)


def is_async(handler: Callable[..., Any]) -> bool:
    """Whether calling ``handler`` makes a coroutine; objects, methods and partials of such functions included."""
    return any(inspect.iscoroutinefunction(each) for each in _functions_of(handler))


def is_generator(handler: Callable[..., Any]) -> bool:
    """Whether calling ``handler`` runs nothing of it, since there is a ``yield`` in it."""
    return any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in _functions_of(handler))


def _functions_of(handler: Any) -> tuple[Any, Any]:
    while isinstance(handler, partial):
        handler = handler.func
    return handler, getattr(handler, "__call__", None)  # noqa: B004


class TaskHands:
    """Workers for an ``async`` handler.

    A worker ends when we stop, or when whoever made us is cancelled, too (as `asyncio.run` does with all tasks at its
    end).  Any other cancellation comes from the handler itself: libraries that bound time cancel the task that they run
    in, and not all of them take that back.  It says something of the record, and nothing of the worker.
    """

    def __init__(self, handler: AsyncHandler, count: int, ended: Ended, failed: Failed) -> None:
        self._handler = handler
        self._ended = ended
        self._failed = failed
        self._ready: deque[Job] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._running: dict[asyncio.Task[None], Job] = {}
        self._stopping = False
        self._owner = asyncio.current_task()
        self._cancelled_before = 0 if self._owner is None else self._owner.cancelling()
        self._tasks = [asyncio.create_task(self._work(), name=f"handler {number}") for number in range(count)]
        for task in self._tasks:
            task.add_done_callback(self._watch)

    def put(self, job: Job) -> None:
        """See `Hands`."""
        self._ready.append(job)
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():  # else its worker was cancelled
                idle.set_result(None)
                return

    def take_back(self) -> list[Job]:
        """See `Hands`."""
        jobs = list(self._ready)
        self._ready.clear()
        return jobs

    async def stop(self) -> None:
        """See `Hands`."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        _, left = await asyncio.wait(self._tasks, timeout=CANCEL_SECONDS_MAX)
        for task in left:
            if (job := self._running.get(task)) is not None:
                log.warning(
                    "%s offset %d: the handler goes on though it was cancelled; it is left to itself",
                    job.place.name,
                    job.record.offset,
                )

    def _watch(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (problem := task.exception()) is not None:
            self._failed(problem, self._running.get(task))

    def _is_ending(self) -> bool:
        return self._stopping or (self._owner is not None and self._owner.cancelling() > self._cancelled_before)

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while True:
            try:
                await self._work_as(task)
            except asyncio.CancelledError:
                if self._is_ending():
                    raise
                # A handler's cancellation of its task, which arrived after the handler had ended.
                while task.uncancel():
                    pass
            else:
                return

    async def _work_as(self, task: asyncio.Task[None]) -> None:
        ready, handler, ended, clock = self._ready, self._handler, self._ended, time.monotonic
        while True:
            rest_at = clock() + SLICE_SECONDS
            while ready:
                job = ready.popleft()
                error: BaseException | None = None
                self._running[task] = job
                with handling(job.record) as run:
                    try:
                        await handler(job.record)
                    except Exception as problem:
                        error = problem
                    except asyncio.CancelledError as problem:
                        if self._is_ending():  # the record stays unfinished
                            raise
                        error = problem  # something within the handler was cancelled: that is a failure like others
                del self._running[task]
                ended(job, error, run.reported)
                if task.cancelling():
                    if self._is_ending():  # the handler finished all the same
                        return
                    while task.uncancel():
                        pass
                if clock() >= rest_at:
                    await asyncio.sleep(0)
                    rest_at = clock() + SLICE_SECONDS
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle


class ThreadHands:
    """Workers for a plain handler.  Threads cannot be cancelled; they do not keep the process from ending."""

    def __init__(self, handler: PlainHandler, count: int, ended: Ended, failed: Failed) -> None:
        self._handler = handler
        self._tell = ended
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._ready: SimpleQueue[Job | None] = SimpleQueue()
        self._done: deque[tuple[Job, BaseException | None, bool]] = deque()
        self._woken = False
        self._count = count
        for number in range(count):
            # Each in a copy of the context of whoever runs the consumer, as a task would be.
            run = partial(contextvars.copy_context().run, self._work)
            threading.Thread(target=run, name=f"handler {number}", daemon=True).start()

    def put(self, job: Job) -> None:
        """See `Hands`."""
        self._ready.put(job)

    def take_back(self) -> list[Job]:
        """See `Hands`."""
        jobs = []
        with suppress(Empty):
            while True:
                if (job := self._ready.get_nowait()) is not None:
                    jobs.append(job)
        return jobs

    async def stop(self) -> None:
        """See `Hands`."""
        for _ in range(self._count):
            self._ready.put(None)

    def _work(self) -> None:
        """What one thread does."""
        while (job := self._ready.get()) is not None:
            error: BaseException | None = None
            with handling(job.record) as run:
                try:
                    result = self._handler(job.record)
                    if result is not None:
                        error = _not_plain(result)
                except BaseException as problem:
                    error = problem
            self._done.append((job, error, run.reported))
            if not self._woken:
                self._woken = True
                with suppress(RuntimeError):  # the loop is closed: nobody waits for this any more
                    self._loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        """Tell of what the threads have done, on the loop."""
        self._woken = False  # first: what is done from here on wakes us again
        while self._done:
            job, error, reported = self._done.popleft()
            if error is None or isinstance(error, Exception | asyncio.CancelledError):
                if isinstance(error, _NotPlain):
                    self._failed(error, job)
                    continue
                self._tell(job, error, reported)
            else:  # KeyboardInterrupt, SystemExit
                self._failed(error, job)


class _NotPlain(ConfigurationError):
    """The handler is no plain function, though it looked like one."""


def _not_plain(result: object) -> _NotPlain | None:
    """What is wrong with a handler that returned this, if it shows that the handler has not run."""
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        return _NotPlain("handler: a plain function that returns an awaitable: declare it with `async def`")
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        return _NotPlain("handler: there is a `yield` in it, so calling it runs nothing of it: remove that")
    return None
