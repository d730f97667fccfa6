#!/usr/bin/env python3
"""Run the whole suite, quick tests first, and end with one line that counts all of it.

Two runs of pytest, because coverage is promised for what the in-process tests prove, not for what a broker happens to
pass through. The second run takes place whatever the first says: one failure shall not hide another.

Arguments go to both runs, for a part of the suite (`make test ARGS="tests/core -x"`); then no coverage is asked for.
"""

from __future__ import annotations

import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ROOT / ".reports"
NO_TESTS = 5


@dataclass
class Run:
    """One run of pytest, its exit code and what its report counts."""

    name: str
    options: list[str]
    code: int = 1
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def execute(self, arguments: list[str]) -> None:
        """Run pytest, its output on the screen, and read the report that it wrote."""
        report = REPORTS / f"{self.name}.xml"
        report.unlink(missing_ok=True)
        print(f"\n### {self.name} tests", flush=True)
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *self.options, *arguments]
        self.code = subprocess.run(command, cwd=ROOT).returncode
        if report.exists():
            for suite in ElementTree.parse(report).getroot().iter("testsuite"):
                tests, failures, errors, skipped = (
                    int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")
                )
                self.passed += tests - failures - errors - skipped
                self.failed += failures + errors
                self.skipped += skipped

    @property
    def succeeded(self) -> bool:
        """Whether nothing went wrong; a part of the suite may have no test of this kind."""
        return self.code in (0, NO_TESTS)


def main(arguments: list[str]) -> int:
    """Run both and sum up."""
    REPORTS.mkdir(exist_ok=True)
    began = time.monotonic()
    coverage = [] if arguments else ["--cov", "--cov-report=term"]
    runs = [Run("in-process", ["-m", "not kafka", *coverage]), Run("kafka", ["-m", "kafka"])]
    for run in runs:
        run.execute(arguments)
    print(f"\n### all tests, {time.monotonic() - began:.0f} s")
    for run in runs:
        if not run.succeeded:
            print(f"The {run.name} run FAILED (pytest exit {run.code}).")
    if all(run.code == NO_TESTS for run in runs):
        print("No test ran.")
        return 1
    passed, failed, skipped = (sum(getattr(run, name) for run in runs) for name in ("passed", "failed", "skipped"))
    print(f"Total: {passed} passed, {failed} failed, {skipped} skipped")
    return 0 if all(run.succeeded for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
