"""Replay a seed and print its history, or run many.

``python -m tests.simulation --seed 7 [--count 1000] [--steps 500]``

With a count above one, only what went wrong is printed, and what was covered.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback

from tests.simulation.coverage import Coverage
from tests.simulation.names import STEPS
from tests.simulation.outcome import Outcome
from tests.simulation.world import simulate


def main() -> int:
    """Print what happened, and whether it was right."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds from there on")
    parser.add_argument("--steps", type=int, default=STEPS, help="what chaos does per seed")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    coverage = Coverage()
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        outcome = simulate(seed, arguments.steps)
        coverage.add(outcome)
        if arguments.count == 1:
            print_history(outcome)
        print_violations(outcome)
    print(coverage.report())
    return 1 if coverage.violated else 0


def print_history(outcome: Outcome) -> None:
    """Everything, in virtual seconds."""
    for seconds, who, text in outcome.history:
        print(f"{seconds:10.4f} {who:12} {text}")


def print_violations(outcome: Outcome) -> None:
    """What is wrong, with the exception that it came from where there is one."""
    for violation in outcome.violations:
        print(f"seed {outcome.seed} VIOLATION: {violation}", flush=True)
    if outcome.cause is not None:
        traceback.print_exception(outcome.cause, file=sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
