"""The crash matrix: what is done to workers, disks, networks and brokers while messages fail and timers fire.

A scenario is a coroutine function of a `Stage` that ends with a `Result` (`AgentResult` where agents are killed); the
first line of its docstring is what the table calls it.  `SCENARIOS` has them all, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from tests.crash.harness import Result
from tests.crash.scenarios import agents, brokers, directories, network, processes, takeover, versions
from tests.crash.scenarios.agents import AgentResult
from tests.crash.scenarios.stage import Skipped, Stage

Outcome = Result | AgentResult

Play = Callable[[Stage], Coroutine[Any, Any, Outcome]]

SCENARIOS: Mapping[str, Play] = {
    "one-worker": processes.one_worker,
    "two-workers": processes.two_workers,
    "three-workers": processes.three_workers,
    "zombie": processes.zombie,
    "takeover": takeover.cold,
    "takeover-standby": takeover.warm,
    "deleted": directories.deleted,
    "torn": directories.torn,
    "disk-full": directories.disk_full,
    "broker": brokers.broker,
    "three-brokers": brokers.three_brokers,
    "cut": network.cut,
    "cut-to-broker": network.cut_to_broker,
    "cut-to-worker": network.cut_to_worker,
    "upgrade": versions.upgrade,
    "agent": agents.agent,
}

__all__ = ["SCENARIOS", "Outcome", "Play", "Skipped", "Stage"]
