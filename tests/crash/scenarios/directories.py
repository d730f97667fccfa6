"""Local state that is gone, torn, outdated, or has no room: it is a cache of the changelogs, and so may cost no more
than time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.crash.fleet import KILL, Fleet, Watch, Worker
from tests.crash.harness import Result, play
from tests.crash.scenarios.processes import calm
from tests.crash.scenarios.stage import CRASHED, KILLED, Skipped, Stage
from tests.crash.traffic import Traffic
from tests.kafka_fixture import local_kafka

DISK_BYTES = 256 << 20
"""Room for the state of 20,000 messages and RocksDB's own needs, as long as nobody else takes it."""

FULL_SECONDS = 4.0
"""How long a disk stays full after the worker met it: some starts fail on it, too."""

FLUSHED_SECONDS_MAX = 75.0
"""RocksDB has to write to the disk by then (`rocks.FLUSH_SECONDS` and some)."""

DAMAGED = b" is damaged, deleted, and built anew"
"""What the worker says when it meets damage; some is only met when it is read."""

SCRIBBLE_EVERY = 512
"""Every block of rows has a wrong byte, while the file's directory is whole: it opens, and fails when it is read."""


async def deleted(stage: Stage) -> Result:
    """Data directory deleted between runs, four times."""

    async def trouble(fleet: Fleet, rng: random.Random, traffic: Traffic) -> None:
        data = fleet.workers["worker-a"].data
        for end in (fleet.kill, fleet.restart, fleet.kill, fleet.restart):
            await asyncio.sleep(rng.uniform(0.05, 0.1) * traffic.seconds)
            await end("worker-a", between=partial(shutil.rmtree, data))

    with local_kafka() as kafka:
        return await play(kafka, stage.directory, stage.scenario("worker-a"), trouble)


# ----------------------------------------------------------------------------------------------------- torn, outdated


def cut(file: Path, rng: random.Random) -> None:
    """As a file is whose end never reached the disk."""
    with file.open("r+b") as writable:
        writable.truncate(int(file.stat().st_size * rng.uniform(0.1, 0.9)))


def scribble(file: Path, rng: random.Random) -> None:
    """As a file is on a disk that lies."""
    content = bytearray(file.read_bytes())
    for place in range(rng.randrange(SCRIBBLE_EVERY), len(content) // 2, SCRIBBLE_EVERY):  # indexes come last
        content[place] ^= 1 + rng.randrange(255)
    file.write_bytes(content)


def remove(file: Path, rng: random.Random) -> None:
    """As a file is that `fsck` did not find a name for."""
    file.unlink()


def damage(worker: Worker, how: Callable[[Path, random.Random], None], pattern: str, rng: random.Random) -> None:
    """Do it to the largest file of this kind in one of the worker's stores."""
    stores = sorted(worker.data.glob("*/p*"))
    store = rng.choice([each for each in stores if any(each.glob(pattern))])
    how(max(store.glob(pattern), key=lambda file: file.stat().st_size), rng)


def put_back(worker: Worker, copy: Path) -> None:
    """As a restored backup is: from these changelogs, whole, and of some time ago."""
    shutil.rmtree(worker.data)
    shutil.copytree(copy, worker.data)


async def torn(stage: Stage) -> Result:
    """Local state cut, scribbled over, incomplete, and put back from old copies."""
    old, live = stage.directory / "old", stage.directory / "live"

    async def trouble(fleet: Fleet, rng: random.Random, traffic: Traffic) -> None:
        worker = fleet.workers["worker-a"]
        await calm(rng)
        await fleet.restart("worker-a", between=lambda: shutil.copytree(worker.data, old))
        for how, pattern in ((cut, "*.sst"), (scribble, "*.sst"), (remove, "MANIFEST-*")):
            await calm(rng)
            written = len(worker.text())
            # What is damaged was closed in order, so that there are files to damage.
            await fleet.restart("worker-a", between=partial(damage, worker, how, pattern, rng))
            await fleet.until(
                lambda: DAMAGED in worker.text()[written:] and worker.at_work_on(),  # noqa: B023
                f"worker-a should meet what {how.__name__} has done to a {pattern}",
            )
        await calm(rng)
        # What RocksDB makes of this is damage or an older state, according to where the cut lies.
        await fleet.restart("worker-a", between=partial(damage, worker, cut, "MANIFEST-*", rng))
        await calm(rng)
        _copy_alive(worker.data, live)
        await calm(rng)
        # A copy of files that were being written, and as the last one a good but old copy: it has to catch up.
        await fleet.kill("worker-a", between=partial(put_back, worker, live))
        await calm(rng)
        await fleet.kill("worker-a", between=partial(put_back, worker, old))

    with local_kafka() as kafka:
        return await play(kafka, stage.directory, stage.scenario("worker-a", exits=(KILLED, CRASHED)), trouble)


def _copy_alive(data: Path, copy: Path) -> None:
    """Copy a directory that is being worked in; what vanishes meanwhile is not in the copy."""

    def take(source: str, target: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(source, target)

    shutil.copytree(data, copy, copy_function=take)


# ---------------------------------------------------------------------------------------------------------- disk full


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of its own, of `DISK_BYTES`."""
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        raise Skipped(f"a small disk cannot be mounted here (it takes root): {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room there is, as a neighbour's log would."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(_Full):
                while True:
                    _append(file, bytes(size))
    return filler


class _Full(Exception):
    """No room for what was to be written."""


def _append(file: object, piece: bytes) -> None:
    try:
        if file.write(piece) < len(piece):  # type: ignore[attr-defined]
            raise _Full
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _Full from None
        raise


async def full_for_a_while(fleet: Fleet, disk: Path, what: str, then: Callable[[], object]) -> None:
    """Fill it, and wait until the worker ended over it, and some more.

    How long the worker takes to be back at work counts from when there is room again.
    """
    worker = fleet.workers["worker-a"]
    had, lives = worker.at_work_on(), len(worker.exits)
    filler = fill(disk)
    then()
    await fleet.until(
        lambda: CRASHED in worker.exits[lives:], "worker-a should end for want of room", FLUSHED_SECONDS_MAX
    )
    await asyncio.sleep(FULL_SECONDS)
    filler.unlink()
    watch = Watch()
    await fleet.until(worker.at_work_on, "worker-a should be back on a disk that has room again")
    fleet.note(watch, worker.name, had, what)


async def disk_full(stage: Stage) -> Result:
    """Disk full under RocksDB: met at a start, and while at work."""
    with small_disk(stage.directory / "worker-a") as disk, local_kafka() as kafka:

        async def trouble(fleet: Fleet, rng: random.Random, traffic: Traffic) -> None:
            worker = fleet.workers["worker-a"]
            await calm(rng)
            # At a start: what is killed finds no room when it comes back.
            await full_for_a_while(fleet, disk, KILL, lambda: worker.signal(signal.SIGKILL))
            # At work: the next flush finds none.
            await full_for_a_while(fleet, disk, "disk full", lambda: None)

        scenario = stage.scenario("worker-a", exits=(KILLED, CRASHED), seconds=2 * FLUSHED_SECONDS_MAX)
        return await play(kafka, stage.directory, scenario, trouble)
