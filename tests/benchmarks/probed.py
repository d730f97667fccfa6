"""A worker that watches its own event loop: ``python -m tests.benchmarks.probed FILE worker [OPTIONS]``.

The worker of the real command line, and one more task on its loop, which sleeps for `PERIOD_SECONDS` and writes down
when that took longer than `NOTED_SECONDS` beyond it: whatever held the loop, or the interpreter, for so long.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

PERIOD_SECONDS = 0.002
NOTED_SECONDS = 0.005


async def watch(file: Path) -> NoReturn:
    """Write a line for each stall: when it was over (monotonic clock), and how long the sleep was overdue."""
    with file.open("w", buffering=1) as lines:
        while True:
            began = time.monotonic()
            await asyncio.sleep(PERIOD_SECONDS)
            now = time.monotonic()
            if (overdue := now - began - PERIOD_SECONDS) > NOTED_SECONDS:
                lines.write(f"{now:.6f} {overdue:.6f}\n")


def main() -> None:
    """Run the command line with the probe in the worker's app."""
    from dlq_stream.cli import main as command_line
    from dlq_stream.worker import run

    file, make = Path(sys.argv.pop(1)), run.stream

    def probed(*arguments: Any, **options: Any) -> Any:
        app = make(*arguments, **options)

        async def probe() -> None:
            await watch(file)

        app.task(probe)
        return app

    run.stream = probed
    command_line(prog_name="dlq-stream")


if __name__ == "__main__":
    main()
