"""The fake broker behaves as the real one does where it matters: what is visible, who is fenced, what is void."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from tests.simulation.broker import (
    TRANSACTION_SECONDS_MAX,
    UNWANTED,
    BatchRefused,
    Broker,
    Concurrent,
    NoSuchTopic,
    ProducerFenced,
    Txn,
)
from tests.simulation.loop import Stuck, VirtualLoop, run

TOPIC = "orders"


def broker() -> Broker:
    made = Broker(Random(1), lambda: 0)
    made.create(TOPIC, 2, picky=True)
    return made


def visible(found: Broker, partition: int = 0) -> list[bytes | None]:
    return [entry.value for entry in found.log(TOPIC, partition).read(0)[0]]


async def written(found: Broker, epoch: int, *values: bytes, partition: int = 0) -> Txn:
    txn = found.begin("p0", epoch, "test")
    found.append(txn, TOPIC, partition, [(b"k", value, ()) for value in values])
    return txn


async def settled() -> None:
    await asyncio.sleep(1)


def test_a_transaction_becomes_visible_as_a_whole_and_later() -> None:
    """Its markers are written after the decision; until then readers stop before its first record."""

    async def main() -> None:
        found = broker()
        epoch = found.init_producer("p0")
        found.produce(TOPIC, 0, b"k", b"before")
        txn = await written(found, epoch, b"one", b"two")
        found.add_offsets(txn, {("input", 0): 9})
        found.produce(TOPIC, 0, b"k", b"behind")
        assert visible(found) == [b"before"]
        found.commit(txn)
        assert visible(found) == [b"before"]
        with pytest.raises(Concurrent):
            found.begin("p0", epoch, "test")
        await settled()
        assert visible(found) == [b"before", b"one", b"two", b"behind"]
        assert found.committed_offset("input", 0) == 9
        assert found.log(TOPIC, 0).read(0)[1] == 5  # behind the marker

    run(main())


def test_a_new_start_aborts_and_fences() -> None:
    """What is open is void, and its writer can do nothing more."""

    async def main() -> None:
        found = broker()
        former = found.init_producer("p0")
        txn = await written(found, former, b"void")
        with pytest.raises(Concurrent):
            found.init_producer("p0")
        await settled()
        epoch = found.init_producer("p0")
        for late in (lambda: found.append(txn, TOPIC, 0, []), lambda: found.commit(txn)):
            with pytest.raises(ProducerFenced):
                late()
        found.commit(await written(found, epoch, b"kept"))
        await settled()
        assert visible(found) == [b"kept"]

    run(main())


def test_a_transaction_left_open_is_aborted_in_time() -> None:
    """Else a dead worker would hold readers back for ever."""

    async def main() -> None:
        found = broker()
        epoch = found.init_producer("p0")
        txn = await written(found, epoch, b"void")
        found.produce(TOPIC, 0, b"k", b"behind")
        await asyncio.sleep(TRANSACTION_SECONDS_MAX - 0.1)
        assert visible(found) == []
        await asyncio.sleep(1)
        assert visible(found) == [b"behind"]
        with pytest.raises(ProducerFenced):
            found.commit(txn)

    run(main())


def test_refusals() -> None:
    """A batch is refused as a whole, whatever is wrong with it."""

    async def main() -> None:
        found = broker()
        epoch = found.init_producer("p0")
        with pytest.raises(BatchRefused) as refused:
            await written(found, epoch, b"good", UNWANTED)
        assert refused.value.positions == (0, 1)
        with pytest.raises(NoSuchTopic):
            found.log("nowhere", 0)
        with pytest.raises(NoSuchTopic):
            found.log(TOPIC, 2)

    run(main())


def test_the_loop_jumps_and_says_when_it_is_stuck() -> None:
    """An hour takes no time; waiting for nothing is an error."""

    async def main() -> float:
        await asyncio.gather(asyncio.sleep(3_600), asyncio.sleep(10))
        return asyncio.get_running_loop().time()

    assert run(main()) == 3_600
    loop = VirtualLoop()
    with pytest.raises(Stuck):
        loop.run_until_complete(loop.create_future())
    loop.close()
