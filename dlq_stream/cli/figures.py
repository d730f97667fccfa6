"""The cluster-wide figures, read from Kafka alone: no worker is asked, none needs to run.

The changelog of the table `stats` is read whole, committed records only; the latest row of each queue and partition
counts, and a queue's figures are the sums over its partitions.  What no worker has processed yet is the group's lag on
the failures and commands topics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from dlq_stream.reading import read_table
from dlq_stream.settings import Settings
from dlq_stream.tables import stats
from dlq_stream.tables.marker import MARKER_KEY
from dlq_stream.tables.stats import PARTITION_QUEUE, Stats
from dlq_stream.view.app import now_ms, open_app


@dataclass(frozen=True, slots=True)
class Figures:
    """What there is to know at one moment; instants are epoch milliseconds."""

    app_id: str
    as_of_ms: int
    """When this was read, by this machine's clock."""
    partitions: int
    queues: Mapping[str, Stats]
    """By queue, summed over partitions; in the order of names."""
    own: Stats
    """What belongs to no queue: events quarantined and forwarded, commands without a message."""
    lag: Mapping[str, int]
    """Records that the workers have not processed yet, for ``failures`` and ``commands``."""

    @property
    def total(self) -> Stats:
        """The sum over queues."""
        return stats.total(self.queues.values())

    @property
    def updated_ms(self) -> int | None:
        """When a worker last changed a figure, by its clock; None where none ever did."""
        return max((row.updated_ms for row in [*self.queues.values(), self.own]), default=0) or None


async def read_figures(settings: Settings) -> Figures:
    """Read them.  Raises BrokersUnavailable, and ConfigurationError where the app's topics do not exist."""
    table = stats.TABLE.changelog(settings.app_id)
    async with open_app(settings, table) as app:
        rows = await read_table(app.consumer, table, app.partitions)
        lag = await app.lag()
    rows.pop(MARKER_KEY, None)
    queues = _by_queue(rows)
    return Figures(
        app_id=settings.app_id,
        as_of_ms=now_ms(),
        partitions=app.partitions,
        own=queues.pop(PARTITION_QUEUE, Stats()),
        queues=dict(sorted(queues.items())),
        lag=lag,
    )


def _by_queue(rows: Mapping[bytes, bytes]) -> dict[str, Stats]:
    parts: defaultdict[str, list[Stats]] = defaultdict(list)
    for key, value in rows.items():
        parts[stats.split_key(key)[0]].append(stats.codec.decode(value))
    return {queue: stats.total(found) for queue, found in parts.items()}
