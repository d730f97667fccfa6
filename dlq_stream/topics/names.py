"""The names of the app's topics: its id is the prefix of all of them."""

from __future__ import annotations

from dataclasses import dataclass

from dlq_stream.tables import TABLES


@dataclass(frozen=True, slots=True)
class AppTopics:
    """The topics of the app ``app_id``."""

    app_id: str

    @property
    def failures(self) -> str:
        """Failure events, keyed by message id."""
        return f"{self.app_id}-failures"

    @property
    def commands(self) -> str:
        """Outcomes and operators' commands, keyed by message id."""
        return f"{self.app_id}-commands"

    @property
    def quarantine(self) -> str:
        """Events that could not be understood, whole, with the reason."""
        return f"{self.app_id}-quarantine"

    @property
    def policies(self) -> str:
        """Retry policies that operators publish, keyed by queue."""
        return f"{self.app_id}-policies"

    @property
    def changelogs(self) -> tuple[str, ...]:
        """One topic per table, in the order of the tables."""
        return tuple(table.changelog(self.app_id) for table in TABLES)

    @property
    def init_transaction(self) -> str:
        """The transactional id with which `init` writes."""
        return f"{self.app_id}-init"

    @property
    def worker_transactions(self) -> str:
        """What the workers' transactional ids begin with; the number of a partition follows."""
        return f"{self.app_id}-p"

    @property
    def all(self) -> tuple[str, ...]:
        """All of them."""
        return (self.failures, self.commands, self.quarantine, self.policies, *self.changelogs)
