"""What the void tries of one turn have taught, so that the next staging decides with it.

A refusal of the brokers names a destination or records.  One that names several records does not say which of them are
at fault: the next try sends them one by one.  Refusals of our own topics are no event's fault, and end the process.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from dlq_stream.core.decide import EscalationReason
from dlq_stream.core.errors import NotAllowed
from dlq_stream.core.transaction import UNAVAILABLE
from dlq_stream.runtime.outcomes import Rejected
from dlq_stream.runtime.ports import TOO_LARGE, Destinations, Refusal, Unavailable
from dlq_stream.runtime.transaction import Identity, StagedTransaction, identity_of

log = logging.getLogger(__name__)


class Lessons:
    """Of one turn: the records ``refused``, with why, and the topics to be sent to ``one_by_one``.

    What is true of a destination is remembered for all turns, by ``destinations``.  Topics that begin with
    ``own_prefix`` are ours.
    """

    def __init__(self, destinations: Destinations, own_prefix: str) -> None:
        self.refused: dict[Identity, str] = {}
        self.one_by_one: set[str] = set()
        self._destinations = destinations
        self._own_prefix = own_prefix

    async def learn(self, tx: StagedTransaction, rejected: Rejected) -> None:
        """Remember refusals; raises NotAllowed or RuntimeError where our own topics are meant."""
        for refusal in rejected.refusals:
            if self._is_ours(refusal.topic):
                await self._learn_of_ours(tx, refusal)
            elif not refusal.records:
                log.warning("destination %s refuses: %s", refusal.topic, refusal.reason)
                self._destinations.refuse(refusal.topic, refusal.reason)
            elif len(refusal.records) > 1 and refusal.topic not in self.one_by_one:
                self.one_by_one.add(refusal.topic)
            else:
                sent = rejected.records[refusal.topic, refusal.partition]
                for position in refusal.records:
                    self.refused[identity_of(refusal.topic, sent[position])] = refusal.reason

    async def _learn_of_ours(self, tx: StagedTransaction, refusal: Refusal) -> None:
        """What one of our own topics takes is known when it is written, unless the brokers did not answer before."""
        if refusal.reason == EscalationReason.NOT_AUTHORISED:
            raise NotAllowed("Write", "topic", refusal.topic)
        if refusal.reason != TOO_LARGE or tx.destination(refusal.topic) is not None:
            raise RuntimeError(f"the brokers refuse our own topic {refusal.topic!r}: {refusal.reason}")
        await self._destinations.look_up({refusal.topic})

    async def look_for_the_silent(self, tx: StagedTransaction, error: Unavailable) -> None:
        """A destination that went away in mid-flight looks like brokers that do not answer.

        Raises RuntimeError where one of our own topics is gone: waiting does not bring it back.
        """
        topics = {out.topic for out in tx.outputs}
        await self._destinations.look_up(topics)
        self._put_off(error.silent)
        for topic in filter(self._is_ours, topics):
            known = self._destinations.known(topic)
            if known is not None and known.refusal == "missing":
                raise RuntimeError(f"our own topic {topic!r} is gone")

    def _put_off(self, silent: Collection[str]) -> None:
        """Where a destination alone does not answer it is at fault, and nothing else shall wait for it."""
        for topic in silent:
            known = self._destinations.known(topic)
            if known is not None and known.refusal is None and not self._is_ours(topic):
                log.warning("destination %s does not answer: what is due there is put off", topic)
                self._destinations.refuse(topic, UNAVAILABLE)

    def _is_ours(self, topic: str) -> bool:
        return topic.startswith(self._own_prefix)
