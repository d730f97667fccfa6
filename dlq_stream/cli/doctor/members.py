"""Who works: the group's members, what each of them has, and what nobody has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from dlq_stream.cli.doctor.finding import Finding, counted, ok, some, warning, wrong
from dlq_stream.cli.doctor.patient import Patient

_STABLE = "Stable"


async def check(patient: Patient) -> list[Finding]:
    """The group as its coordinator sees it."""
    group = await patient.group()
    found = await patient.metadata([patient.topics.failures])
    partitions = len(found[patient.topics.failures]["partitions"]) if found else patient.settings.partitions
    return list(findings_of(group, patient.topics.failures, partitions))


def findings_of(group: Mapping[str, Any], topic: str, partitions: int) -> Iterable[Finding]:
    """``topic`` stands for all that is assigned: the app's topics are assigned alike."""
    members, state = group["members"], group["state"]
    if not members:
        yield warning("member", "no worker runs", "start dlq-stream worker")
        return
    if state != _STABLE:
        yield warning(
            "group",
            f"{counted(len(members), 'worker')}, and the group is in the state {state}: partitions are being given out",
            "look again in a few seconds; if it stays like this, workers come and go (see their logs)",
        )
        return
    owned = {name_of(member): sorted(partitions_of(member["assignment"], topic)) for member in members}
    taken = {number for numbers in owned.values() for number in numbers}
    told = [f"{name} has {_ranges(numbers)}" for name, numbers in sorted(owned.items())]
    yield ok("member", f"{counted(len(members), 'worker')}: {some(told, 20)}")
    if lost := sorted(set(range(partitions)) - taken):
        yield wrong(
            "partition",
            f"no worker has partition {_ranges(lost)}: what is there waits",
            "restart the workers one after the other; their logs say why a partition could not be opened",
        )
    if idle := sorted(name for name, numbers in owned.items() if not numbers):
        yield warning(
            "member",
            f"{some(idle)} has nothing to do: {counted(partitions, 'partition')} cannot be shared by {len(members)}",
            "stop it, unless it keeps standbys warm",
        )


def name_of(member: Mapping[str, Any]) -> str:
    """What people know a member by: its static name where it has one, and where it runs."""
    known = member["instance_id"] or member["member_id"]
    return f"{known} ({member['client_host'].lstrip('/')}{', static' if member['instance_id'] else ''})"


def partitions_of(assignment: bytes, topic: str) -> set[int]:
    """The partitions of ``topic`` in a member's assignment."""
    if not assignment:
        return set()
    decoded = ConsumerProtocolMemberAssignment.decode(assignment)
    return {number for name, numbers in decoded.assignment if name == topic for number in numbers}


def _ranges(numbers: list[int]) -> str:
    """``0-3, 7``; ``nothing``."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in found) or "nothing"
