"""What happens at an assignment: fence, restore, then read the committed offsets, seek, and only then deliver.

Faust's recovery of active tables is replaced by the partitions' own (see `changelog`); its service, its signals and the
order of a rebalance stay.
"""

from __future__ import annotations

from typing import Any

from faust.tables.manager import TableManager as FaustTableManager
from faust.tables.recovery import RebalanceAgain
from faust.tables.recovery import Recovery as FaustRecovery

from dlq_stream.core.errors import DLQError
from dlq_stream.runtime.owner import Interrupted


class Recovery(FaustRecovery):
    """Faust's recovery service with the partitions' own restore."""

    def add_standby(self, table: Any, tp: Any) -> None:
        """Removes: standbys that write values and offsets apart, swallow errors, and wait for commit markers (#47).

        `Owner` follows those partitions (see `dlq_stream.runtime.standby`); Faust's recovery is told of none.
        """

    async def _wait(self, coro: Any, timeout: Any = None) -> None:
        """Removes: a restore that takes longer than a request time-out counts as finished."""
        await super()._wait(coro)

    async def _build_highwaters(self, consumer: Any, tps: Any, destination: Any, title: str) -> None:
        """Removes: an unknown high-water mark means "nothing to restore" (robinhood/aiokafka #7)."""
        self._nothing_left(tps, destination)

    async def _build_offsets(self, consumer: Any, tps: Any, destination: Any, title: str) -> None:
        """Removes: tables restored while their former owner can still write, and five-second waits at markers (#47)."""
        if title != "active":  # no standby is told to Faust
            return
        generation = self._generation_id
        self._still(generation)
        lacking = self._lacking(consumer)
        if lacking:
            self.app.fatal("the assignment", RuntimeError(f"lacks {', '.join(lacking)}: does the topic exist?"))
        try:
            await self.app.owner.open({tp.partition for tp in tps}, generation)
        except Interrupted as error:
            raise RebalanceAgain from error
        except DLQError as error:
            self.app.refuse(error)
        except Exception as error:
            self.app.fatal("opening partitions", error)
        self._still(generation)
        self._nothing_left(tps, destination)

    def _lacking(self, consumer: Any) -> list[str]:
        """Removes: a topic that is not known is left out of the assignment, and the worker idles as if all was well.

        It was deleted, or the brokers were silent while the group was joined.  Every partition comes with that of each
        topic that agents read, and of each changelog.
        """
        assigned = {(tp.topic, tp.partition) for tp in consumer.assignment() - self._standbys()}
        topics = {*self.app.topics._topic_name_index, *self.app.tables.changelog_topics}
        return consumer.unknown(topics) or sorted(
            f"{topic}-{number}"
            for topic in topics
            for number in {number for _, number in assigned}
            if (topic, number) not in assigned
        )

    def _standbys(self) -> set[Any]:
        """Changelog partitions of which this worker shall keep a copy; whoever leads the group says so."""
        assignor = self.app.assignor
        standbys: set[Any] = assignor.assigned_standbys() - assignor.assigned_actives()
        return standbys

    @staticmethod
    def _nothing_left(tps: Any, destination: Any) -> None:
        """For Faust: the changelogs end where its restored state does."""
        for tp in tps:  # a Counter, whose update() would add
            destination[tp] = -1

    def _still(self, generation: int) -> None:
        if generation != self.app.consumer_generation_id:
            raise RebalanceAgain

    async def _seek_offsets(self, consumer: Any, tps: Any, offsets: Any, title: str) -> None:
        """Removes: seeking changelogs that are not read through the group's consumer."""

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Removes: partitions resumed before the seek, queues cleared after it (#596): records lost or seen twice."""
        app, consumer = self.app, self.app.consumer
        await app.on_rebalance_complete.send()
        self._set_recovery_ended()
        for table in self.tables.values():
            await table.on_recovery_completed(self.actives_for_table[table], self.standbys_for_table[table])
        self._still(generation_id)
        positions = await consumer.positions_sought()
        self._still(generation_id)
        self.completed.set()
        app.flow_control.resume()  # clears every queue
        app.owner.ready(positions)
        consumer.resume_partitions({tp for tp in consumer.assignment() if not self._is_changelog_tp(tp)})
        consumer.resume_flow()
        await app._fetcher.maybe_start()
        self.tables.on_actives_ready()
        app.on_rebalance_end()
        app.on_ready()
        app.owner.follow({tp.partition for tp in self._standbys()}, self.tables.on_standbys_ready)


class TableManager(FaustTableManager):
    """Faust's table manager with our recovery."""

    _recovery: Recovery | None

    async def on_start(self) -> None:
        """Removes: one second of sleep at every start."""
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()

    @property
    def recovery(self) -> Recovery:
        """Removes: Faust's recovery, which takes an unknown end for nothing to restore; made on first use."""
        if self._recovery is None:
            self._recovery = Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
