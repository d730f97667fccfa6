"""Replay a seed and print its history, or run many.

``python -m tests.simulation --seed 7`` replays one seed: everything that happened, in virtual seconds, and what was
violated.  ``python -m tests.simulation --count 1000`` runs many, from ``--seed`` on, and prints what they came to
together; it fails where something was violated or did not occur in any of them.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback

from tests.simulation.course import simulate
from tests.simulation.coverage import Coverage
from tests.simulation.many import cover, executor
from tests.simulation.names import STEPS


def main() -> int:
    """Print what happened, and whether it was right."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="the seed, or the first of many (default: 0)")
    parser.add_argument("--count", type=int, default=1, help="how many seeds from there on (default: 1)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"what chaos does per seed (default: {STEPS})")
    arguments = parser.parse_args()
    if arguments.count == 1:
        return replay(arguments.seed, arguments.steps)
    with executor() as processes:
        coverage = cover(processes, range(arguments.seed, arguments.seed + arguments.count), arguments.steps)
    print(coverage.report())
    return 1 if coverage.violations or coverage.missing or coverage.unforeseen else 0


def replay(seed: int, steps: int) -> int:
    """Run one seed and print its history, and the exception that something wrong came from, where there is one."""
    logging.disable(logging.CRITICAL)
    outcome = simulate(seed, steps)
    for seconds, who, text in outcome.history:
        print(f"{seconds:10.4f} {who:12} {text}")
    for violation in outcome.violations:
        print(f"seed {seed} VIOLATION: {violation}", flush=True)
    if outcome.cause is not None:
        traceback.print_exception(outcome.cause, file=sys.stdout)
    coverage = Coverage()
    coverage.add(outcome)
    print(coverage.report(of_many=False))
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
