"""Topics are there once every broker knows them, and one dead broker of three is no reason to give up; with fakes."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import NodeNotReadyError

from dlq_stream.core.errors import BrokersUnavailable
from dlq_stream.topics import cluster
from dlq_stream.topics.cluster import Cluster

UNKNOWN_TOPIC = 3
BROKERS = 1, 2, 3


class FakeAdmin:
    """Brokers that know of a topic after they were asked so often; None never answers."""

    def __init__(self, late: dict[int, int | None]) -> None:
        self.late = late
        self.asked: Counter[int] = Counter()

    async def describe_cluster(self) -> dict[str, Any]:
        return {"cluster_id": "cluster", "brokers": [{"node_id": broker} for broker in BROKERS]}

    async def _send_request_to_node(self, broker: int, request: object) -> Any:
        self.asked[broker] += 1
        late = self.late.get(broker, 0)
        if late is None:
            raise NodeNotReadyError(broker)
        known = self.asked[broker] > late
        partitions = [{"leader": 1, "replicas": list(BROKERS)}] if known else []
        topic = {"error_code": 0 if known else UNKNOWN_TOPIC, "topic": "app-failures", "partitions": partitions}
        return SimpleNamespace(to_object=lambda: {"topics": [topic]})


async def test_a_topic_is_there_once_the_last_broker_knows_it() -> None:
    """The next question may be put to any of them."""
    admin = FakeAdmin({2: 1, 3: 4})
    await Cluster(admin).settle(["app-failures"])
    assert admin.asked == dict.fromkeys(BROKERS, 5)


@pytest.mark.parametrize(
    ("late", "told"),
    [
        ({3: 1_000_000}, r"app-failures \(broker 3\)"),
        ({2: None}, r"broker 2 does not answer \(NodeNotReadyError"),
    ],
)
async def test_a_broker_that_never_does_is_named(
    late: dict[int, int | None], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has some time, and no more."""
    monkeypatch.setattr(cluster, "SETTLE_SECONDS_MAX", 0.1)
    with pytest.raises(BrokersUnavailable, match=told):
        await Cluster(FakeAdmin(late)).settle(["app-failures"])


class DyingAdmin(FakeAdmin):
    """Puts questions to a broker that is dead, for the first few times."""

    def __init__(self, dead: int) -> None:
        super().__init__({})
        self.dead = dead

    async def describe_cluster(self) -> dict[str, Any]:
        if self.dead > 0:
            self.dead -= 1
            raise NodeNotReadyError("node 3")
        return await super().describe_cluster()


async def test_a_broker_that_has_just_died_does_not_end_the_asking() -> None:
    """It is listed until its session is over; the next question may go to another."""
    assert (await Cluster(DyingAdmin(3)).id_and_brokers()) == ("cluster", list(BROKERS))


async def test_where_all_are_dead_the_asking_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time for which a dead broker is listed."""
    monkeypatch.setattr(cluster, "DEAD_SECONDS_MAX", 0.1)
    with pytest.raises(NodeNotReadyError):
        await Cluster(DyingAdmin(1_000_000)).id_and_brokers()
