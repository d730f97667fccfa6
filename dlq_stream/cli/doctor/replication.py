"""Whether the copies of the topics that everything hangs on are where they should be, and enough of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from dlq_stream.cli.doctor.finding import Finding, counted, ok, some, warning, wrong
from dlq_stream.cli.doctor.patient import Patient

KAFKAS_OWN: Final = ("__consumer_offsets", "__transaction_state")
"""Where offsets and decisions about transactions are kept: without them no worker moves."""


async def check(patient: Patient) -> list[Finding]:
    """Partitions without a leader, with too few copies in sync, and topics that no broker may be lost of."""
    names = [*patient.topics.all, *KAFKAS_OWN]
    topics = await patient.metadata(names)
    insync = {
        name: int(configs.get("min.insync.replicas") or 1)
        for name, configs in (await patient.cluster.configs(list(topics))).items()
    }
    brokers = len(await patient.nodes())
    found = [finding for name in sorted(topics) for finding in findings_of(name, topics[name], insync[name], brokers)]
    if not set(topics) & set(patient.topics.all):
        return found  # that they are missing is another check's finding
    count = sum(len(topic["partitions"]) for topic in topics.values())
    healthy = f"all copies of {counted(count, 'partition')} in {counted(len(topics), 'topic')} are in sync"
    return found or [ok("replica", healthy)]


def findings_of(name: str, topic: Mapping[str, Any], insync: int, brokers: int) -> Iterable[Finding]:
    """What is wrong with one topic; nothing where nothing is."""
    partitions = topic["partitions"]
    dead = [str(each["partition"]) for each in partitions if each["leader"] < 0]
    if dead:
        yield wrong("offline", f"{name}: partition {some(dead)} has no leader", "start the brokers that hold it", name)
    stuck = [str(each["partition"]) for each in partitions if each["leader"] >= 0 and len(each["isr"]) < insync]
    if stuck:
        yield wrong(
            "insync",
            f"{name}: partition {some(stuck)} has fewer copies in sync than min.insync.replicas, {insync}: "
            "nothing can be written to it",
            "start the brokers that hold the others",
            name,
        )
    late = [str(each["partition"]) for each in partitions if insync <= len(each["isr"]) < len(each["replicas"])]
    if late:
        yield warning(
            "replica",
            f"{name}: a copy of partition {some(late)} is not in sync",
            "start the broker that holds it, or let it catch up",
            name,
        )
    copies = min((len(each["replicas"]) for each in partitions), default=0)
    if 1 < copies <= insync:
        yield warning(
            "insync",
            f"{name}: min.insync.replicas is {insync} of {copies} copies: no writes while one broker is down",
            f"set it to {copies - 1} (kafka-configs.sh), or add copies (kafka-reassign-partitions.sh)",
            name,
        )
    if copies == 1 and brokers > 1 and name in KAFKAS_OWN:
        yield warning(
            "copies",
            f"{name} has one copy: while its broker is down no worker moves, and losing it loses what is in there",
            "raise it with kafka-reassign-partitions.sh",
            name,
        )
