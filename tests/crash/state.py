"""The tables of an app at rest: what the workers' directories hold, and what the changelogs say they should hold.

Directories are copied before they are opened: looking must not change what is looked at.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dlq_stream.runtime.changelog import KafkaChangelog, StateOrigin
from dlq_stream.runtime.rocks import META, RocksStore
from dlq_stream.settings import Settings
from dlq_stream.topics import verify
from dlq_stream.worker.assembly import SystemClock, kafka_options

Contents = Mapping[bytes, bytes]
"""Rows and index entries of one partition, by tagged key; what the store knows of itself is left out."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything there is of an app's tables.

    ``rebuilt``: by partition, from the changelogs alone.  ``stores``: by directory and partition, as they lie there.
    ``caught_up``: the same directories after reading the rest of the changelogs, which for a partition's last owner
    should change nothing.  What equals the rebuild is that very object, as there may be much of it.
    """

    rebuilt: Mapping[int, Contents]
    stores: Mapping[tuple[str, int], Contents]
    caught_up: Mapping[tuple[str, int], Contents]


async def tables(settings: Settings, directories: Mapping[str, Path]) -> Tables:
    """Read them; no worker may be running on ``directories`` (data directories by name)."""
    verified = await verify(settings)
    origin = StateOrigin(settings.app_id, verified.cluster_id, settings.partitions, verified.tombstones_kept_ms)
    rebuilt: dict[int, Contents] = {}
    stores: dict[tuple[str, int], Contents] = {}
    caught_up: dict[tuple[str, int], Contents] = {}
    with tempfile.TemporaryDirectory(prefix="dlq-rebuild-") as scratch:
        for number in range(settings.partitions):
            rebuilt[number] = await _caught_up(Path(scratch) / f"p{number}", number, origin, settings)
            for name, directory in directories.items():
                there = directory / settings.app_id / f"p{number}"
                if there.exists():
                    copy = Path(scratch) / f"{name}-p{number}"
                    shutil.copytree(there, copy)
                    stores[name, number] = _shared(_read(copy), rebuilt[number])
                    caught_up[name, number] = _shared(await _caught_up(copy, number, origin, settings), rebuilt[number])
    return Tables(rebuilt, stores, caught_up)


def _shared(contents: Contents, rebuilt: Contents) -> Contents:
    return rebuilt if contents == rebuilt else contents


async def _caught_up(path: Path, partition: int, origin: StateOrigin, settings: Settings) -> Contents:
    """A store after what a worker does when it opens a partition."""
    store = RocksStore(path)
    try:
        await KafkaChangelog(partition, store, origin, SystemClock(), kafka_options(settings)).catch_up()
        return _contents(store)
    finally:
        store.close()


def _read(path: Path) -> Contents:
    store = RocksStore(path)
    try:
        return _contents(store)
    finally:
        store.close()


def _contents(store: RocksStore) -> Contents:
    every = store.scan(META, b"\xff", 10_000_000)
    return {key: value for key, value in every if not key.startswith(META)}
