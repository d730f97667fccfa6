"""The broker goes away under a working worker: killed, frozen, killed for good.  Nothing is lost or done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from dlq_stream.core.policy import Policies
from dlq_stream.settings import QueueSettings
from dlq_stream.settings.published import encode
from dlq_stream.worker.policies import PolicyFollower
from tests.integration.conftest import MakeApp
from tests.integration.harness import PARTITIONS, STOP_SECONDS_MAX, App, Worker, attempt_of, by_id, eventually
from tests.kafka_clients import Outgoing
from tests.kafka_fixture import LocalKafka, local_kafka

COUNT = 400
EXIT_CRASH_ONLY = 70


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalKafka]:
    """One for these tests alone; the last of them leaves it dead."""
    with local_kafka() as kafka:
        yield kafka


async def supervise(worker: Worker, exits: list[int]) -> None:
    """Start the worker again whenever it ends as crash-only software does; anything else is kept and left alone."""
    while True:
        if worker.code is not None:
            exits.append(worker.code)
            if worker.code != EXIT_CRASH_ONLY:
                return
            await worker.start(wait_ready=False)
        await asyncio.sleep(0.1)


async def report(app: App, source: str, name: bytes) -> None:
    """Failures that become due one after the other for two seconds."""
    records = await app.produced(*(Outgoing(source, name, b"%d" % n) for n in range(COUNT)))
    await app.send(*(app.failure(each, retry_after_ms=5 * n) for n, each in enumerate(records)))


async def all_are_retried_once(app: App, source: str, count: int) -> None:
    """Nothing is lost, nothing comes twice, and the figures say so."""
    deliveries = by_id(
        await eventually(lambda: app.read(source), 60, wanted=lambda found: len(by_id(found)) * 2 <= len(found))
    )
    assert len(deliveries) == count
    assert all(sorted(map(attempt_of, each)) == [0, 1] for each in deliveries.values())
    await app.figures(source, pending=0, retrying=count, total_failures=count, total_retries=count, stuck=0)


async def test_policies_are_followed_across_a_restart_of_the_broker(broker: LocalKafka, make_app: MakeApp) -> None:
    """What was read holds meanwhile, and what is written afterwards is taken in."""
    app = await make_app(broker)
    seen: list[Policies] = []
    topic = app.topic("policies")
    follower = PolicyFollower(app.bootstrap, topic, PARTITIONS, Policies(), seen.append)
    await app.send(Outgoing(topic, *reversed(encode("heat", QueueSettings(max_retries=1)))))
    await follower.read(10)
    assert [policies.for_queue("heat").max_retries for policies in seen] == [1]
    following = asyncio.create_task(follower.run())
    await eventually(lambda: _length(seen), wanted=lambda count: count == 2)
    await asyncio.to_thread(broker.kill)
    await asyncio.to_thread(broker.start)
    await app.send(Outgoing(topic, *reversed(encode("heat", QueueSettings(max_retries=2)))))
    await eventually(lambda: _length(seen), wanted=lambda _: seen[-1].for_queue("heat").max_retries == 2)
    assert {policies.for_queue("heat").max_retries for policies in seen} == {1, 2}
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def _length(seen: list[Policies]) -> int:
    return len(seen)


async def test_a_broker_that_is_killed_and_comes_back(broker: LocalKafka, make_app: MakeApp) -> None:
    """In the middle of emissions and intake, on the same port: the worker outlives it, or ends with 70 and goes on."""
    app = await make_app(broker)
    worker = await app.worker("--instance-id", "stable").start()
    exits: list[int] = []
    supervisor = asyncio.create_task(supervise(worker, exits))
    source = await app.source()
    await report(app, source, b"before")
    await eventually(lambda: app.read(source), wanted=lambda found: len(found) > COUNT)
    await asyncio.to_thread(broker.kill)
    await asyncio.sleep(2)
    await asyncio.to_thread(broker.start)
    await report(app, source, b"after")
    await all_are_retried_once(app, source, 2 * COUNT)
    supervisor.cancel()
    print(f"exits of the worker while its broker was killed: {exits}")
    assert set(exits) <= {EXIT_CRASH_ONLY}
    code, seconds = await worker.stop()
    print(f"ended {seconds:.2f} s after SIGTERM")
    assert code == 0


async def test_a_broker_that_hangs(broker: LocalKafka, make_app: MakeApp) -> None:
    """Longer than a transaction may take: connections stay open and nothing is answered, as behind a lost route."""
    app = await make_app(broker, transaction_timeout_seconds=6)
    worker = await app.worker("--instance-id", "stable").start()
    exits: list[int] = []
    supervisor = asyncio.create_task(supervise(worker, exits))
    source = await app.source()
    await report(app, source, b"before")
    await eventually(lambda: app.read(source), wanted=lambda found: len(found) > COUNT)
    broker.pause()
    await asyncio.sleep(8)
    broker.resume()
    await asyncio.to_thread(broker.start)  # which waits until it answers
    await all_are_retried_once(app, source, COUNT)
    supervisor.cancel()
    print(f"exits of the worker while its broker hung: {exits}")
    assert set(exits) <= {EXIT_CRASH_ONLY}


async def test_sigterm_while_the_broker_hangs(broker: LocalKafka, make_app: MakeApp) -> None:
    """In the middle of transactions: it ends in time and with 0, and whatever became of its last commit is right."""
    app = await make_app(broker)
    worker = await app.worker("--instance-id", "stable").start()
    source = await app.source()
    await report(app, source, b"before")
    await eventually(lambda: app.read(source), wanted=lambda found: len(found) > COUNT)
    broker.pause()
    code, seconds = await worker.stop()
    broker.resume()
    await asyncio.to_thread(broker.start)  # which waits until it answers
    unknown = "its last commit unknown" if "the next start finds out" in worker.log else "nothing in doubt"
    print(f"ended {seconds:.2f} s after SIGTERM, the broker hanging, {unknown}")
    assert code == 0, worker.log
    assert seconds <= STOP_SECONDS_MAX
    await worker.start()
    await all_are_retried_once(app, source, COUNT)
    assert (await worker.stop())[0] == 0


async def test_sigterm_while_the_broker_is_away(broker: LocalKafka, make_app: MakeApp) -> None:
    """It ends in time all the same, and with 0: what became of its last commit is for the next start to find out."""
    app = await make_app(broker)
    worker = await app.worker().start()
    source = await app.source()
    await report(app, source, b"before")
    await asyncio.to_thread(broker.kill)
    await asyncio.sleep(1)
    assert worker.code is None, worker.log
    code, seconds = await worker.stop()
    print(f"ended {seconds:.2f} s after SIGTERM without a broker")
    assert code == 0, worker.log
    assert seconds <= STOP_SECONDS_MAX
