"""What the engine needs to know besides a transaction: policies, rules, names and bounds.  One frozen value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dlq_stream.core.classification import Classifier
from dlq_stream.core.events import Happening
from dlq_stream.core.policy import Policies, RetryPolicy

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The engine's surroundings; the same for all partitions of a worker.

    * ``policies``: those that hold when the transaction begins; a worker that learns of others takes another engine
      for the next one, and all steps of a transaction share their first one's (`dlq_stream.engine.turn.Turn.of`).
    * ``classifier_for``: the rules of a queue's policy, ready to be asked; asked for once per queue and batch.
    * ``observe``: is given what happened (`dlq_stream.core.events`), after the commit; must not raise.
    * ``allowed_topics``: patterns of original topics that may be written to, see `dlq_stream.core.destinations`.
    * ``attempts_kept_max``: rows of `attempts` per message; beyond it the second oldest goes, the first stays.
    * ``queues_max``: queues per partition with figures of their own; later ones are booked as ``other``.
    * ``retention_ms``: how long closed messages are kept.
    * ``dead_letter_bytes_max``: what one batch of intake or commands writes to ``-dlq`` topics; beyond it the writes
      are left to the timer, at once, so that many small commands cannot stage gigabytes.
    * ``purge_bytes_max``: attempts that one step of retention, or one batch of commands, reads and deletes; the rest is
      left to the next step, at once.  A single message always fits.
    """

    app_id: str
    policies: Policies
    classifier_for: Callable[[RetryPolicy], Classifier]
    observe: Callable[[Happening], None]
    allowed_topics: Sequence[str] = ("*",)
    attempts_kept_max: int = 16
    queues_max: int = 1_000
    retention_ms: int = 30 * DAY_MS
    dead_letter_bytes_max: int = 4 * 1_048_576
    purge_bytes_max: int = 4 * 1_048_576
    quarantine_topic: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "allowed_topics", tuple(self.allowed_topics))
        object.__setattr__(self, "quarantine_topic", f"{self.app_id}-quarantine")


@dataclass(frozen=True, slots=True)
class EmitResult:
    """What a look at the due index came to.

    * ``emitted``: retries sent; ``handled``: rows that were dealt with in any way, those included.
    * ``next_due_ms``: when to look again unless ``more``; None: nothing is due ever.
    * ``more``: the bounds of this call were reached with work left, so look again at once.
    * ``unknown``: topics that nothing is known of yet; the rows that need them were passed over.
    """

    emitted: int
    handled: int
    next_due_ms: int | None
    more: bool
    unknown: frozenset[str]
