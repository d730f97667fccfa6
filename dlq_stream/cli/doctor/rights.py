"""What whoever asks may do, as the brokers tell it; nothing is tried out.

The rights of each role are those of ``init --print-acls``.  An operator has fewer than a worker, so those of one role
are enough, unless one is named.  Brokers tell about topics and groups (KIP-430), not about transactional ids.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from aiokafka.errors import GroupAuthorizationFailedError

from dlq_stream.cli.doctor.finding import Finding, ok, some, warning
from dlq_stream.cli.doctor.patient import Patient
from dlq_stream.cli.doctor.protocol import NOT_TOLD
from dlq_stream.topics.acls import ROLES, Right, Role, rights_of

OPERATIONS: Final[Mapping[str, int]] = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
"""Bits of what is told (``org.apache.kafka.common.acl.AclOperation``)."""

Granted = Mapping[tuple[str, str], int]
"""By kind and name of a resource, what is allowed there."""


async def check(patient: Patient) -> list[Finding]:
    """Which roles this user can have, with the app's topics, its group, and sources that were named."""
    settings = patient.settings
    sources = [*settings.doctor_source, *settings.init_source]
    rights = rights_of(settings, sources)
    named = {right.name for right in rights if right.kind == "topic" and not right.is_prefix}
    topics = await patient.granted([*patient.topics.all, *(name for name in named if "<" not in name)])
    granted = {("topic", name): bits for name, bits in topics.items()}
    try:
        granted["group", settings.app_id] = (await patient.group())["authorized_operations"]
    except GroupAuthorizationFailedError:
        granted["group", settings.app_id] = 0
    if all(bits == NOT_TOLD for bits in granted.values()):
        return [ok("right", "the brokers do not tell what is allowed")]
    return [finding_of(granted, rights, settings.doctor_role)]


def finding_of(granted: Granted, rights: Collection[Right], role: Role | None) -> Finding:
    """Whether that is enough for ``role``; None: for any."""
    missing = {each: list(_missing(granted, [one for one in rights if one.role == each])) for each in ROLES}
    able = [each for each in ROLES if not missing[each]]
    if role in able or (role is None and able):
        unable = [f"{each} ({some(missing[each], 2)})" for each in ROLES if missing[each]]
        lacks = f"; it lacks what these need: {', '.join(unable)}" if unable else ""
        return ok("right", f"this user has the rights of {', '.join(able)}{lacks}")
    needed = role or "operator"
    return warning(
        "right",
        f"this user has not the rights of {'an' if needed[0] in 'aio' else 'a'} {needed}: {some(missing[needed])}",
        "grant them, or ask as another user (dlq-stream init --print-acls prints the commands)",
        needed,
    )


def _missing(granted: Granted, rights: Collection[Right]) -> Iterator[str]:
    """``Write on topic x``, for each right that is not there; of resources that do not exist nothing is known."""
    for right in rights:
        for (kind, name), bits in sorted(granted.items()):
            if kind != right.kind or bits == NOT_TOLD:
                continue
            if name == right.name or (right.is_prefix and name.startswith(right.literal)):
                lacking = [each for each in right.operations if not bits >> OPERATIONS[each] & 1]
                if lacking:
                    yield f"{', '.join(lacking)} on {kind} {name}"
