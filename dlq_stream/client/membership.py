"""One consumer of aiokafka's as a member of the group, from joining to leaving: it feeds `Work` and commits for it.

Four things about aiokafka shape this module:

* Between the moment that `getmany` takes records out of its buffer and the moment that it returns them, nothing else
  runs, and partitions are taken away and given only while something else runs.  So what it returns is of the present
  assignment, as long as it is awaited directly and not in a task of its own.
* Where `getmany` raises, what it had taken of other partitions by then is gone, and their positions are behind it.  So
  these positions are not believed any more; the next member begins at what is committed.
* Its `commit` tries again by itself, for as long as it takes, and would commit what was true before a rebalance with
  the membership of after it.  Here offsets are collected and the request is made of them in one step.
* It hands out nothing while partitions are redistributed, and pausing a partition throws away what was fetched of it.
  So a partition without room is left out of polls, and paused only where nothing else is left to poll, which has to go
  on: who does not poll is expelled from the group.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalGenerationError, KafkaError, RebalanceInProgressError, UnknownMemberIdError
from aiokafka.structs import OffsetAndMetadata

from dlq_stream.client.work import Work
from dlq_stream.coordinator import leave_group, make_careful, problem_of, read_from_beginning
from dlq_stream.core.connection import Brokers
from dlq_stream.kafka import group_consumer
from dlq_stream.tolerant import read_tolerantly

POLL_MS = 500
"""How long one poll waits for records."""
POLL_RECORDS_MAX = 1_000
"""What was fetched is taken over in portions of so many records."""
ROOM_SECONDS = 0.02
"""While some partitions have no room, how long to wait for it before the others are looked at again."""
PAUSE_SECONDS = 1.0
"""Where no partition has had room for so long, all are paused."""
COMMIT_SECONDS_MAX = 5.0
"""A commit that takes longer is given up; the next one says more."""
LEAVE_SECONDS_MAX = 3.0
METADATA_SECONDS = 30.0
"""How long it may go unnoticed that a topic was made anew, or has got more partitions; aiokafka says 5 minutes."""

REBALANCE_ROOM_SECONDS = 15.0
"""The group waits for a member's handlers, reports and commit; more than what they may take."""

_REBALANCED = (UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError)
"""Commits that came too late: the coordinator has moved on, and aiokafka joins again by itself."""

log = logging.getLogger(__name__)


class Membership(ConsumerRebalanceListener):
    """See the module.  ``revoke_seconds``: how long handlers get when their partitions are taken away."""

    def __init__(
        self,
        work: Work,
        brokers: Brokers,
        group: str,
        *,
        auto_offset_reset: str,
        session_seconds: float,
        revoke_seconds: float,
    ) -> None:
        self._work = work
        self._revoke_seconds = revoke_seconds
        self._committing = asyncio.Lock()
        self._committed: dict[TopicPartition, int] = {}
        self._left = False
        self._misread = False
        rebalance_ms = int((revoke_seconds + REBALANCE_ROOM_SECONDS) * 1000)
        self._consumer: Any = group_consumer(
            brokers,
            group,
            client_id=f"dlq-stream-consumer-{group}",
            auto_offset_reset=auto_offset_reset,
            session_timeout_ms=int(session_seconds * 1000),
            heartbeat_interval_ms=int(session_seconds * 1000 / 3),
            rebalance_timeout_ms=rebalance_ms,
            metadata_max_age_ms=int(METADATA_SECONDS * 1000),
            # Joining is one request, which lasts as long as the slowest member takes to get ready.
            request_timeout_ms=max(40_000, rebalance_ms + 10_000),
        )

    async def join(self, topics: Collection[str], retry_topics: Collection[str]) -> None:
        """Become a member.  Raises KafkaError."""
        await self._consumer.start()
        make_careful(self._consumer)
        read_tolerantly(self._consumer)
        self.subscribe(topics, retry_topics)

    def subscribe(self, topics: Collection[str], retry_topics: Collection[str]) -> None:
        """Read these from now on; the retry topics from their beginning, where nothing of them was committed."""
        read_from_beginning(self._consumer, retry_topics)
        self._consumer.subscribe(sorted({*topics, *retry_topics}), listener=self)

    async def leave(self) -> None:
        """Leave the group, whatever the brokers do."""
        self._left = True
        self._work.lose(self._work.ours())
        if self._consumer._coordinator is None:  # it never started
            await self._consumer.stop()
        else:
            await leave_group(self._consumer, LEAVE_SECONDS_MAX)

    # --- partitions come and go; aiokafka calls these and waits for them ----------------------------------------------

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Finish what runs of them, within its bound, commit what is finished, and drop the rest."""
        if self._left:
            return
        await self._work.let_go(revoked, self._revoke_seconds)
        try:
            await self.commit()
        except KafkaError as error:
            log.warning("what was finished of %d partitions could not be committed: %r", len(revoked), error)
        finally:
            self._work.lose(revoked)
            self._committed.clear()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """They are ours."""
        if not self._left:
            self._work.assign(assigned)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def poll(self) -> None:
        """Read and feed, without end.  Raises KafkaError where this consumer cannot go on."""
        try:
            await self._poll()
        except Exception:
            self._misread = True
            raise

    async def _poll(self) -> None:
        consumer, work = self._consumer, self._work
        waited = 0.0
        while True:
            if (problem := problem_of(consumer)) is not None:
                raise problem
            assigned = consumer.assignment()
            wanted = [place for place in assigned if work.has_room(place)]
            for place in consumer.paused():
                if place in wanted:
                    consumer.resume(place)
            if len(wanted) == len(assigned):
                batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS_MAX)
            elif wanted or waited >= PAUSE_SECONDS:
                if not wanted:
                    consumer.pause(*assigned)
                    wanted = list(assigned)  # of paused ones nothing comes, but it counts as a poll
                batches = await consumer.getmany(*wanted, timeout_ms=0, max_records=POLL_RECORDS_MAX)
                waited = 0.0
            else:
                batches = {}
            if batches:
                self._feed(batches)
                await asyncio.sleep(0)  # a poll that finds records does not wait, and the handlers want to begin
            elif len(wanted) < len(assigned) or consumer.paused():
                await work.room(ROOM_SECONDS)
                waited += ROOM_SECONDS

    def _feed(self, batches: dict[TopicPartition, list[Any]]) -> None:
        positions = self._positions()
        for place, records in batches.items():
            self._work.feed(place, records, positions.get(place, records[-1].offset + 1))

    def _positions(self) -> dict[TopicPartition, int]:
        """Where reading goes on in each partition of the present assignment, as far as that is known."""
        subscription = self._consumer._subscription.subscription
        assignment = None if subscription is None else subscription.assignment
        if assignment is None or not assignment.active:
            return {}
        states = {place: assignment.state_value(place) for place in assignment.tps}
        return {place: state.position for place, state in states.items() if state.has_valid_position}

    # --- committing ---------------------------------------------------------------------------------------------------

    async def commit(self) -> None:
        """Commit what is finished; what does not succeed within its time is left to the next commit.

        Raises KafkaError where the brokers refuse it for good.
        """
        try:
            async with asyncio.timeout(COMMIT_SECONDS_MAX):
                await self._commit()
        except TimeoutError:
            log.warning("a commit was not acknowledged within %g s", COMMIT_SECONDS_MAX)

    async def _commit(self) -> None:
        coordinator = self._consumer._coordinator
        if coordinator is None:  # it never started
            return
        async with self._committing:
            await coordinator.ensure_coordinator_known()
            if coordinator.generation < 0:
                # We were expelled.  A group without members would take this as a stranger's commit, and undo with it
                # what somebody else has committed since.
                return
            offsets = self._to_commit()
            if not offsets:
                return
            try:
                # Up to its first pause this makes the request, for the generation of this moment.
                await coordinator._do_commit_offsets(
                    None, {place: OffsetAndMetadata(offset, "") for place, offset in offsets.items()}
                )
            except KafkaError as error:
                if not (error.retriable or isinstance(error, _REBALANCED)):
                    raise
                log.warning("a commit was refused: %r", error)
            else:
                self._committed |= offsets

    def _to_commit(self) -> dict[TopicPartition, int]:
        if not (self._misread or self._consumer._subscription.reassignment_in_progress):
            for place, position in self._positions().items():
                self._work.reached(place, position)
        offsets = {}
        for place in self._work.ours():
            offset = self._work.committable(place)
            if offset is not None and offset != self._committed.get(place):
                offsets[place] = offset
        return offsets
