"""Many seeds, side by side on all cores that there are; each run is one process' work and has no part in another's."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import NamedTuple, TypeVar

from tests.simulation.bugs import BUGS
from tests.simulation.course import simulate
from tests.simulation.coverage import Coverage
from tests.simulation.names import STEPS

T = TypeVar("T")

VIOLATIONS_MAX = 10
"""After so many there is enough to look into."""


class Catch(NamedTuple):
    """A planted bug was found out."""

    seed: int
    violation: str


def executor() -> ProcessPoolExecutor:
    """Processes of their own, so that neither threads nor tracing of this one get there."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"), initializer=_prepare)


def _prepare() -> None:
    logging.disable(logging.CRITICAL)
    gc.disable()  # what a run leaves behind is collected after it, which is cheaper than looking for it all the time
    gc.freeze()  # and what was imported is not looked at


def cover(processes: ProcessPoolExecutor, seeds: range, steps: int = STEPS) -> Coverage:
    """Run these seeds; ends early where too much is wrong."""
    coverage = Coverage()
    futures = [processes.submit(_cover, chunk, steps) for chunk in _chunks(seeds, 5)]
    for found in _in_order(futures):
        coverage.merge(found)
        if len(coverage.violations) >= VIOLATIONS_MAX:
            break
    return coverage


def _cover(seeds: Sequence[int], steps: int) -> Coverage:
    coverage = Coverage()
    for seed in seeds:
        coverage.add(simulate(seed, steps))
        gc.collect()
    return coverage


def first_catch(processes: ProcessPoolExecutor, bug: str, seeds: range) -> Catch | None:
    """The first of these seeds that finds a planted bug out, by its name in `BUGS`."""
    futures = [processes.submit(_catch, bug, chunk) for chunk in _chunks(seeds, 2)]
    return next((catch for catch in _in_order(futures) if catch), None)


def _catch(bug: str, seeds: Sequence[int]) -> Catch | None:
    for seed in seeds:
        outcome = BUGS[bug].simulate(seed)
        gc.collect()
        if outcome.violations:
            return Catch(seed, outcome.violations[0])
    return None


def _chunks(seeds: range, size: int) -> Iterable[Sequence[int]]:
    return (seeds[first : first + size] for first in range(0, len(seeds), size))


def _in_order(futures: list[Future[T]]) -> Iterator[T]:
    """Results as they were asked for; whoever has seen enough leaves, and the rest is not begun."""
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()
