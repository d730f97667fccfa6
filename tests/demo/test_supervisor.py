"""Who is started again, and what counts as a mistake; with real processes, small ones."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dlq_stream.demo import supervisor as under_test
from dlq_stream.demo.supervisor import Child, Supervisor

WAITS = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); print('up', flush=True); time.sleep(60)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "RESTART_DELAY_SECONDS", 0.01)


def child(tmp_path: Path, code: str, *, is_restarted: bool = True) -> Child:
    command = [sys.executable, "-I", "-S", "-c", code]
    return Child("worker-1", command, dict(os.environ), tmp_path / "log", is_restarted=is_restarted)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for is another process's doing
            await asyncio.sleep(0.01)


def times_up(one: Child) -> int:
    return one.log.read_text().count("up") if one.log.exists() else 0


async def test_a_killed_worker_comes_back(tmp_path: Path) -> None:
    """As another process, and its end by SIGTERM is a good one."""
    one = child(tmp_path, WAITS)
    await one.start()
    await until(lambda: times_up(one) == 1)
    before = one.pid
    assert one.kill()
    await until(lambda: times_up(one) == 2)
    assert (one.restarts, one.pid != before, one.mistake) == (1, True, "")
    await one.stop()
    await one.stop()
    assert (one.exits, one.pid, one.mistake, one.kill()) == ([-9, 0], None, "", False)


async def test_exit_70_is_started_again_but_not_for_ever(tmp_path: Path) -> None:
    """Crash-only, until it is clear that restarts do not help."""
    one = child(tmp_path, "print('no disk'); raise SystemExit(70)")
    await one.start()
    await one.finished()
    assert one.restarts == under_test.CRASHES_MAX - 1
    assert "crashed 10 times" in one.mistake
    assert "no disk" in one.mistake


@pytest.mark.parametrize("code", [0, 2, 69])
async def test_other_ends_of_a_worker_are_mistakes(tmp_path: Path, code: int) -> None:
    """With the last words from its log."""
    one = child(tmp_path, f"print('bad option'); raise SystemExit({code})")
    await one.start()
    await one.finished()
    assert (one.restarts, "bad option" in one.mistake) == (0, True)
    assert Supervisor([one]).mistakes == [one.mistake]


async def test_a_producer_may_end(tmp_path: Path) -> None:
    """Only failing is a mistake then."""
    good, bad = (child(tmp_path, f"raise SystemExit({code})", is_restarted=False) for code in (0, 1))
    for one in (good, bad):
        await one.start()
        await one.finished()
    assert (good.mistake, bad.mistake) == ("", "worker-1 ended with exit 1")


async def test_who_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that is kept as a mistake."""
    monkeypatch.setattr(under_test, "STOP_SECONDS_MAX", 0.2)
    one = child(tmp_path, DEAF)
    everyone = Supervisor()
    await everyone.add(one)
    await until(lambda: times_up(one) == 1)
    await everyone.stop()
    assert "did not end within" in one.mistake
    assert one.pid is None


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
async def test_children_die_with_their_supervisor(tmp_path: Path) -> None:
    """Also when it is killed, so that no worker runs on unnoticed."""
    program = f"""
import asyncio, os, sys
from pathlib import Path
from dlq_stream.demo.supervisor import Child
async def main():
    command = [sys.executable, "-c", {WAITS!r}]
    one = Child("w", command, dict(os.environ), Path({str(tmp_path / "log")!r}), is_restarted=True)
    await one.start()
    print(one.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    pid = int(await process.stdout.readline())
    process.kill()
    await process.wait()
    await until(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    """Whether it runs: a zombie that nobody has collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
