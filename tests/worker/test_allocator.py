"""glibc's arenas: as many as we say, in a process of its own, for they are never given up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dlq_stream.worker import allocator

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


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where there is another system, nor another C library."""
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert not allocator.bound_arenas({})
    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.bound_arenas({})
