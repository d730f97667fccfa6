"""glibc's memory: as many arenas as we say, and what a burst took is given back; in processes of their own."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dlq_stream.worker import allocator
from tests.runtime.fakes import in_virtual_time

THREADS = 12
PROCESS = """
import ctypes, sys, threading
from dlq_stream.worker.allocator import bound_arenas

if sys.argv[1] == "bound":
    print(bound_arenas())
together = threading.Barrier(int(sys.argv[2]))

def allocate():
    held = [bytes(10_000 + size) for size in range(100)]
    together.wait(60)

threads = [threading.Thread(target=allocate) for _ in range(together.parties)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[3].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""

BURST = """
import asyncio, re, time
from dlq_stream.worker import allocator

def resident():
    return int(re.search("VmRSS:\\\\s+(\\\\d+) kB", open("/proc/self/status").read()).group(1)) * 1024

async def main():
    allocator.LOOK_SECONDS = 0.1
    task = asyncio.create_task(allocator.give_back_after_work(lambda: True))
    await asyncio.sleep(0)
    burst = [bytes(1_000) for _ in range(100_000)]
    kept = bytes(1_000)  # above all of it, so that malloc gives nothing back by itself
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    del burst
    held = resident()
    async with asyncio.timeout(60):
        while resident() > held - 50_000_000:
            assert not task.done()
            await asyncio.sleep(0.01)
    task.cancel()

asyncio.run(main())
"""

pytestmark = pytest.mark.skipif(
    not (sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")), reason="glibc only"
)


def arenas_of(told: str, directory: Path, **environment: str) -> tuple[str, int]:
    """What `bound_arenas` answered in a new process, and how many arenas its threads made."""
    report = directory / "malloc.xml"
    own = {name: value for name, value in os.environ.items() if name not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")}
    said = subprocess.run(
        [sys.executable, "-c", PROCESS, told, str(THREADS), str(report)],
        env=own | environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return said.stdout.strip(), len(re.findall(r"<heap nr=", report.read_text()))


def test_threads_share_few_arenas(tmp_path: Path) -> None:
    """Unbound they make more, which is what the bound is for."""
    answer, arenas = arenas_of("bound", tmp_path)
    assert answer == "True"
    assert arenas <= allocator.ARENAS_MAX < arenas_of("unbound", tmp_path)[1]


@pytest.mark.parametrize(
    "environment",
    [{"MALLOC_ARENA_MAX": "4"}, {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7:glibc.malloc.arena_max=4"}],
)
def test_whoever_runs_the_worker_has_the_last_word(tmp_path: Path, environment: dict[str, str]) -> None:
    """As for every process."""
    answer, arenas = arenas_of("bound", tmp_path, **environment)
    assert answer == "False"
    assert allocator.ARENAS_MAX < arenas <= 4


async def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where there is another system, nor another C library."""
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert not allocator.bound_arenas({})
    await allocator.give_back_after_work(lambda: True)
    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.bound_arenas({})
    await allocator.give_back_after_work(lambda: True)


def test_what_a_burst_took_is_given_back() -> None:
    """Though something that stays lies above it."""
    subprocess.run([sys.executable, "-c", BURST], check=True, timeout=120)


async def acts(*works: tuple[float, float, float], waits: tuple[float, float] = (0, 0)) -> list[float]:
    """When something was done within 60 s of work from one instant to another at some part of the time."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    acted: list[float] = []

    def passed() -> float:
        return loop.time() - started

    async def act() -> None:
        acted.append(passed())

    def used() -> float:
        return sum(part * max(0.0, min(passed(), stop) - begin) for begin, stop, part in works)

    task = asyncio.create_task(allocator.after_work(act, lambda: not waits[0] <= passed() < waits[1], used))
    await asyncio.sleep(60)
    task.cancel()
    return acted


@in_virtual_time
async def test_memory_is_given_back_when_work_is_over() -> None:
    """After the start, which is work, too; but not in the middle of it, nor again before there was more."""
    assert await acts() == [1]
    assert await acts((0, 60, 0.9)) == []
    assert await acts((0, 60, 0.3)) == []
    assert await acts((0, 20, 0.9)) == [21]
    assert await acts((10, 11, 0.9)) == [1]
    assert await acts((0, 20, 0.9), (20, 30, 0.3)) == [31]
    assert await acts((0, 20, 0.9), (50, 56, 0.9)) == [21, 57]


@in_virtual_time
async def test_memory_is_not_given_back_while_something_waits() -> None:
    """For the brokers, say."""
    assert await acts((0, 20, 0.9), waits=(0, 40)) == [40]


@in_virtual_time
async def test_small_bursts_do_not_have_it_given_back_each_time() -> None:
    """It is worth it after two seconds of work."""
    assert await acts(*((begin, begin + 1, 0.75) for begin in range(10, 60, 5))) == [1, 22, 37, 52]
