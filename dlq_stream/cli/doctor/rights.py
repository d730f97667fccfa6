"""What whoever asks may do, as the brokers tell it; nothing is tried out.

Rights on transactional ids cannot be asked for this way.  An operator may well have fewer rights than a worker needs,
so what is missing is a warning: it says what a worker could not do as this user.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from dlq_stream.cli.doctor.finding import Finding, ok, warning
from dlq_stream.cli.doctor.patient import Patient
from dlq_stream.cli.doctor.protocol import NOT_TOLD

READ, WRITE, DESCRIBE, DESCRIBE_CONFIGS = 3, 4, 8, 10
"""``org.apache.kafka.common.acl.AclOperation``."""

WORDS: Final[Mapping[int, str]] = {
    READ: "Read",
    WRITE: "Write",
    DESCRIBE: "Describe",
    DESCRIBE_CONFIGS: "DescribeConfigs",
}


async def check(patient: Patient) -> list[Finding]:
    """What a worker does with the app's topics and its group, against what is allowed."""
    topics, group = await patient.metadata(patient.topics.all), await patient.group()
    found: list[Finding] = []
    told = group["authorized_operations"] != NOT_TOLD
    for name, topic in sorted(topics.items()):
        granted = topic["authorized_operations"]
        told |= granted != NOT_TOLD
        found += _missing(f"topic {name}", granted, needed_of(name, patient))
    found += _missing(f"group {patient.settings.app_id}", group["authorized_operations"], (READ, DESCRIBE))
    if not told:
        return [ok("right", "the brokers do not tell what is allowed")]
    return found or [ok("right", "this user may do what a worker does with the app's topics and its group")]


def needed_of(topic: str, patient: Patient) -> tuple[int, ...]:
    """What a worker does with one of the app's topics."""
    if topic == patient.topics.quarantine:
        return WRITE, DESCRIBE, DESCRIBE_CONFIGS
    return READ, WRITE, DESCRIBE, DESCRIBE_CONFIGS


def _missing(resource: str, granted: int, needed: Iterable[int]) -> Iterable[Finding]:
    lacking = [WORDS[each] for each in needed if granted != NOT_TOLD and not granted >> each & 1]
    if lacking:
        yield warning(
            "right",
            f"this user has not {', '.join(lacking)} on {resource}, which a worker needs",
            "grant it if workers run as this user (dlq-stream init --print-acls lists all rights)",
            resource,
        )
