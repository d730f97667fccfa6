"""Times that are promised for an idle machine, measured on one that may be busy.

On a machine that is idle enough the promise is asserted as it stands.  On a busy one whatever is measured takes longer,
by as much as others take of the processors; so the bound is multiplied by how many wanted to run on each core *while it
was measured*, up to `FACTOR_MAX`.  Either way the run's summary says what was measured, and against which bound.
"""

from __future__ import annotations

import os
from pathlib import Path

FACTOR_MAX = 4.0
"""A promise that does not hold within four times its bound is broken, however busy the machine."""

MEASURED: list[str] = []
"""What was measured in this run, for its summary."""


class Crowd:
    """How many wanted to run at each `look`, from the kernel's own count (Linux only)."""

    def __init__(self) -> None:
        self._sum = 0
        self._looks = 0

    def look(self) -> None:
        """Count those that run or wait to run, but for ourselves, who are looking."""
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
        self._sum += max(0, running - 1)
        self._looks += 1

    @property
    def factor(self) -> float:
        """How many there were for each core, on average; 1 where there were cores to spare."""
        mean = self._sum / self._looks if self._looks else 0.0
        return max(1.0, min(FACTOR_MAX, mean / (os.cpu_count() or 1)))


def assert_promise(what: str, seconds: float, promised: float, crowd: Crowd, *, besides: float = 0.0) -> None:
    """``what`` took at most the ``promised`` seconds, and ``besides`` what no processor makes shorter."""
    factor = crowd.factor
    bound = besides + promised * factor
    busy = f"; {bound:.1f} s on a machine with {factor:.1f} times more to do than cores" if factor > 1 else ""
    MEASURED.append(f"{what}: {seconds:.2f} s, promised {besides + promised:g} s{busy}")
    assert seconds <= bound, MEASURED[-1]
