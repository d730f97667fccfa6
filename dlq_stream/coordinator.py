"""What aiokafka's group coordinator gets wrong for those who must not read twice or skip, put right for one consumer.

The coordinator's class is replaced by a subclass, as `dlq_stream.kafka` does with connections; nothing is patched for
other users of aiokafka in the same process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError, NotCoordinatorForGroupError, for_code

from dlq_stream.kafka import stop_consumer

_OFFSET_FETCH = 9  # the API key
_MOVED = (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError)


class _CarefulCoordinator(GroupCoordinator):  # type: ignore[misc]  # aiokafka has no types
    """See the methods."""

    topics_from_beginning: Collection[str] = ()

    async def _send_req(self, request: Any) -> Any:
        """Removes: reading from the beginning, or skipping to the end, where the coordinator was still loading.

        Such a coordinator, or one that is not it any more, says so once for the whole answer to `OffsetFetch`.
        aiokafka looks at the partitions alone, finds none, and takes that for "nothing committed".  As an error it is
        what aiokafka tries again after.
        """
        answer = await super()._send_req(request)
        code = getattr(answer, "error_code", 0) if request.API_KEY == _OFFSET_FETCH else 0
        if code:
            error = for_code(code)
            if error in _MOVED:
                self.coordinator_dead()
            raise error(self.group_id)
        return answer

    async def _do_fetch_commit_offsets(self, partitions: Collection[TopicPartition]) -> Any:
        """Removes: one reset policy for all topics of a consumer.

        A retry topic is read from its beginning where nothing was committed: it appears while consumers run, and what
        was written before they noticed it is for them.
        """
        offsets = await super()._do_fetch_commit_offsets(partitions)
        assignment = self._subscription.subscription.assignment
        for place in partitions:
            if place.topic in self.topics_from_beginning and place not in offsets and assignment is not None:
                state = assignment.state_value(place)
                if state is not None and not state.has_valid_position:
                    state.await_reset(OffsetResetStrategy.EARLIEST)
        return offsets


def make_careful(consumer: AIOKafkaConsumer) -> None:
    """Put right the coordinator of a consumer that was started without a subscription."""
    coordinator: Any = consumer._coordinator
    assert type(coordinator) is GroupCoordinator, "a consumer without a group has none"
    coordinator.__class__ = _CarefulCoordinator


def read_from_beginning(consumer: AIOKafkaConsumer, topics: Collection[str]) -> None:
    """Have partitions of ``topics`` in which nothing was committed read from their beginning."""
    coordinator: Any = consumer._coordinator
    coordinator.topics_from_beginning = frozenset(topics)


def problem_of(consumer: AIOKafkaConsumer) -> BaseException | None:
    """What ended one of the tasks that fetch and keep up the membership; aiokafka does not always tell.

    Removes: a consumer that silently brings nothing any more, because its fetching task has ended.
    """
    for task in (consumer._fetcher._fetch_task, consumer._coordinator._coordination_task):
        if task.done() and not task.cancelled():
            return task.exception() or RuntimeError(f"a task of aiokafka's has ended: {task!r}")
    return None


async def leave_group(consumer: AIOKafkaConsumer, seconds: float) -> None:
    """Stop a consumer; where its brokers do not answer within ``seconds``, without their consent."""
    with suppress(TimeoutError, KafkaError):
        async with asyncio.timeout(seconds):
            await stop_consumer(consumer)
            return
    coordinator: Any = consumer._coordinator
    tasks = [
        task
        for task in (coordinator._coordination_task, coordinator._heartbeat_task, coordinator._commit_refresh_task)
        if task is not None
    ]
    for task in tasks:
        task.cancel()
    await asyncio.wait([*tasks, asyncio.ensure_future(consumer._client.close())], timeout=seconds)
