"""Who else sees a topic's retries is told once, and never costs a worker anything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping

import pytest
from aiokafka.errors import ClusterAuthorizationFailedError

from dlq_stream.core.events import RetryEmitted
from dlq_stream.core.policy import Policies, RetryPolicy
from dlq_stream.worker import bystanders as module
from dlq_stream.worker.bystanders import Bystanders

ID = bytes(16)


class Groups:
    """Brokers that know these readers, and remember what they were asked."""

    def __init__(self, readers: Mapping[str, list[str]] | Exception, hidden: list[str] | None = None) -> None:
        self.readers = readers
        self.hidden = hidden or []
        self.asked: list[list[str]] = []
        self.was_asked = asyncio.Event()

    async def __call__(self, topics: Collection[str]) -> tuple[Mapping[str, list[str]], list[str]]:
        self.asked.append(list(topics))
        self.was_asked.set()
        if isinstance(self.readers, Exception):
            raise self.readers
        return {topic: self.readers.get(topic, []) for topic in topics}, self.hidden


def emitted(topic: str, queue: str | None = None) -> RetryEmitted:
    return RetryEmitted(ID, queue or topic, 1, topic, 0)


def of(groups: Groups, policies: Policies | None = None) -> Bystanders:
    return Bystanders(groups, lambda: policies or Policies(), first_seconds=0, look_seconds=0)


async def test_each_topic_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """With its groups and what to do; a topic with one reader or none is not, and is looked at again."""
    groups = Groups({"shared": ["a", "b"], "alone": ["a"]})
    bystanders = of(groups)
    for topic in ("shared", "alone", "unread", "shared"):
        bystanders.emitted(emitted(topic))
    await bystanders.look()
    (warning,) = caplog.messages
    assert "topic shared, which consumer groups a, b read" in warning
    assert "dlq-group" in warning
    assert 'emit_to = "retry"' in warning
    groups.readers = {"shared": ["a", "b"], "alone": ["a", "c"]}
    await bystanders.look()
    await bystanders.look()
    assert [message.split(",")[0] for message in caplog.messages[1:]] == ["retries go to topic alone"]
    assert groups.asked == [["alone", "shared", "unread"], ["alone", "unread"], ["unread"]]


async def test_queues_whose_retries_go_elsewhere_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """By today's policy."""
    groups = Groups({"own-retry": ["a", "b"]})
    bystanders = of(groups, Policies(by_queue={"own": RetryPolicy(emit_to="retry")}))
    bystanders.emitted(emitted("own-retry", "own"))
    await bystanders.look()
    assert (groups.asked, caplog.messages) == ([], [])


async def test_a_long_list_of_groups_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """A warning is a line for people."""
    bystanders = of(Groups({"t": [f"g{number}" for number in range(500)]}))
    bystanders.emitted(emitted("t"))
    await bystanders.look()
    assert "g9 and 490 more read" in caplog.text
    assert "g10" not in caplog.text


@pytest.mark.parametrize("error", [ClusterAuthorizationFailedError(), TimeoutError(), OSError("gone")])
async def test_what_goes_wrong_is_said_once(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """It is no warning, and the next look is made all the same."""
    caplog.set_level(logging.INFO)
    groups = Groups(error)
    bystanders = of(groups)
    bystanders.emitted(emitted("t"))
    await bystanders.look()
    await bystanders.look()
    assert [(record.levelname, type(error).__name__ in record.message) for record in caplog.records] == [("INFO", True)]
    assert len(groups.asked) == 2


async def test_groups_that_may_not_be_looked_at_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """What is known is told all the same."""
    caplog.set_level(logging.INFO)
    bystanders = of(Groups({"t": ["a", "b"]}, hidden=["secret"]))
    bystanders.emitted(emitted("t"))
    bystanders.emitted(emitted("u"))
    await bystanders.look()
    await bystanders.look()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_nothing_is_asked_before_something_was_emitted() -> None:
    """And topics that whoever sends failures makes up do not fill memory."""
    groups = Groups({})
    bystanders = of(groups)
    running = asyncio.create_task(bystanders.run())
    await asyncio.sleep(0)
    assert groups.asked == []
    for number in range(module.TOPICS_MAX + 5):
        bystanders.emitted(emitted(f"t{number}"))
    await groups.was_asked.wait()
    running.cancel()
    assert len(groups.asked[0]) == module.TOPICS_MAX
