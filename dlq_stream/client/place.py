"""One partition in this process, over all its assignments to it, and the records of it that are at work."""

from __future__ import annotations

from dlq_stream.client.delivery import Delivery
from dlq_stream.client.lanes import Lanes
from dlq_stream.client.progress import Progress
from dlq_stream.client.traffic import Count
from dlq_stream.core.model import Record


class Job:
    """A record that is to be handled.

    ``progress``: the assignment of ``place`` that it counts for.  ``result``: what its handler raised and whether it
    reported the record itself, where it ended while the partition was not ours.
    """

    __slots__ = ("count", "delivery", "place", "progress", "record", "result", "size")

    def __init__(
        self, place: Place, record: Record, delivery: Delivery | None, count: Count, progress: Progress, size: int
    ) -> None:
        self.place = place
        self.record = record
        self.delivery = delivery
        self.count = count
        self.progress = progress
        self.size = size
        self.result: tuple[BaseException | None, bool] | None = None


class Place:
    """A partition.

    * ``running``: what was given to a handler, or whose result is not acknowledged yet, by offset.
    * ``left``: the same of earlier assignments, also if it has ended since.  When such a record comes again it is not
      started a second time.
    * ``done``: what was finished in earlier assignments and not committed, as something before it was not finished;
      with timestamps, for a topic that is made anew has the same offsets.  When it comes again it is passed over.
    * ``held``: so many results cannot be acknowledged at the moment; until they are, nothing more is started, and what
      would be is ``parked``.
    * ``full``: no more is fetched until some of what is here is finished.
    """

    __slots__ = (
        "bytes_unfinished",
        "count",
        "done",
        "full",
        "held",
        "lanes",
        "left",
        "name",
        "ours",
        "parked",
        "progress",
        "running",
    )

    def __init__(self, name: str, count: Count) -> None:
        self.name = name
        self.count = count
        self.ours = False
        self.progress = Progress()
        self.bytes_unfinished = 0
        self.full = False
        self.held = 0
        self.lanes: Lanes[Job] = Lanes()
        self.parked: list[Job] = []
        self.running: dict[int, Job] = {}
        self.left: dict[int, Job] = {}
        self.done: dict[int, int] = {}

    def begin(self) -> None:
        """It is assigned to us, or its log begins anew: count from the next record on."""
        self._keep()
        self.progress = Progress()
        self.bytes_unfinished = 0
        self.full = False
        self.ours = True

    def end(self) -> None:
        """It is ours no longer: what still runs of it does not count, unless it comes back."""
        self.progress.over = True
        self._keep()
        self.ours = self.full = False

    def _keep(self) -> None:
        """Remember what is known of records that may come again."""
        self.left |= self.running
        self.running = {}
        self.done |= self.progress.ahead()

    def is_done(self, record: Record) -> bool:
        """Whether this very record was finished in an earlier assignment."""
        return self.done.get(record.offset) == record.timestamp

    def adopt(self, record: Record) -> Job | None:
        """The job of this very record from an earlier assignment; from now on it counts for this one."""
        job = self.left.get(record.offset)
        if job is None or job.record.timestamp != record.timestamp:
            return None
        del self.left[record.offset]
        self.running[record.offset] = job
        job.progress = self.progress
        return job

    def outdate(self, position: int) -> None:
        """Reading goes on at ``position``: what ended before it does not come again, it will be committed or is."""
        self.done = {offset: timestamp for offset, timestamp in self.done.items() if offset >= position}
        for offset in [offset for offset, job in self.left.items() if offset < position and job.result is not None]:
            del self.left[offset]

    def forget(self, job: Job) -> None:
        """``job`` does not run any more."""
        for jobs in (self.running, self.left):
            if jobs.get(job.record.offset) is job:
                del jobs[job.record.offset]
                return
