"""`make crash`: the crash matrix on real brokers; prints a table, and exits with 1 where anything is not as it should.

    python -m tests.crash [--events 20000] [--seed N] [--only NAME ...] [--list] [--logs DIR]

Every scenario is told by its seed: the messages, their fates, and what the troubles leave to chance (the moments within
a transaction are the machine's).  ``--only NAME --seed N`` plays one again.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from tests.crash.report import failed, skipped, table, told
from tests.crash.scenarios import SCENARIOS, Skipped, Stage
from tests.crash.scenarios.versions import PREVIOUS

EVENTS = 20_000


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make crash ARGS=...", description="The crash matrix on real brokers.")
    parser.add_argument("--events", type=int, default=EVENTS, help="failures of each scenario (%(default)s)")
    parser.add_argument("--seed", type=int, help="plays a run again; by default a new one for each scenario")
    parser.add_argument("--only", action="append", choices=SCENARIOS, metavar="NAME", help="this scenario; repeats")
    parser.add_argument("--list", action="store_true", help="say which scenarios there are, and end")
    parser.add_argument("--previous", default=PREVIOUS, metavar="REF", help="the commit upgraded from (%(default)s)")
    parser.add_argument("--logs", type=Path, help="keep the workers' logs and directories here")
    return parser.parse_args()


def play(name: str, given: argparse.Namespace, directory: Path) -> dict[str, object]:
    """Play one scenario and return its row of the table."""
    seed = random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed
    print(f"{name}: seed {seed} ...", flush=True)
    directory.mkdir(parents=True)
    try:
        result = asyncio.run(SCENARIOS[name](Stage(seed, given.events, directory, given.previous)))
    except Skipped as why:
        print(f"{name}: SKIPPED, NOTHING IS PROVEN: {why}", flush=True)
        return skipped(name)
    except Exception:
        traceback.print_exc()
        return failed(name, seed)
    print(f"{name}: {result.line}", flush=True)
    if not result.findings.are_none:
        print(f"{name}: seed {seed}:\n{result.findings}", flush=True)
    return told(name, result)


def main() -> int:
    """Play what was asked for."""
    given = options()
    names = given.only or list(SCENARIOS)
    if given.list:
        for name in names:
            print(f"{name:<15} {(SCENARIOS[name].__doc__ or '').splitlines()[0]}")
        return 0
    if given.events < 1:
        print(f"--events {given.events}: at least 1 has to fail", file=sys.stderr)
        return 2
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that brokers are away is what some scenarios are about
    logs = Path(tempfile.mkdtemp(prefix="dlq-crash-")) if given.logs is None else given.logs.resolve()
    rows = []
    for name in names:
        rows.append(row := play(name, given, logs / name))
        if row["good"] and given.logs is None:
            shutil.rmtree(logs / name)
    print(f"\n{table(rows)}")
    good = all(row["good"] for row in rows)
    if given.logs is None and good:
        shutil.rmtree(logs)
    else:
        print(f"logs and directories: {logs}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
