"""Which versions meet here: ours and its libraries', and what the brokers can do."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dlq_stream import __version__
from dlq_stream.cli.doctor.finding import Finding, ok, some, warning, wrong
from dlq_stream.cli.doctor.patient import ANSWER_SECONDS_MAX, Patient
from dlq_stream.cli.doctor.protocol import ApiVersionsRequest, features_of
from dlq_stream.kafka import UNREACHABLE
from dlq_stream.runtime.versions import TESTED, installed

NEEDED: Final = {22: "InitProducerId", 24: "AddPartitionsToTxn", 26: "EndTxn", 28: "TxnOffsetCommit"}
"""Requests that transactions are made of (Kafka 0.11)."""

WANTED: Final = {65: "DescribeTransactions"}
"""Requests that a worker does without, less well (Kafka 3.0)."""

KAFKAS_FEATURE: Final = "metadata.version"


async def check(patient: Patient) -> list[Finding]:
    """Ours first, then the brokers'."""
    answers = dict(zip(nodes := await patient.nodes(), await _answers(patient, nodes), strict=True))
    return [*_ours(), *_theirs({node: answer for node, answer in answers.items() if answer is not None})]


def _ours(found: Mapping[str, str] | None = None) -> Iterable[Finding]:
    have = {package: installed(package) for package in TESTED} if found is None else found
    others = [f"{each} {have[each]} (tested: {TESTED[each]})" for each in TESTED if have[each] != TESTED[each]]
    missing = [each for each in TESTED if have[each] == "not installed"]
    here = f"dlq-stream {__version__} on Python {platform.python_version()}"
    if len(others) > len(missing):
        yield warning(
            "library",
            f"{here}, with versions that it was not tested with: {', '.join(others)}",
            "pip install 'dlq-stream[worker]' where workers run; this is about this machine only",
        )
    elif missing:
        yield ok("library", f"{here}; no worker can run here without {', '.join(missing)} (the extra `worker`)")
    else:
        yield ok(
            "library", f"{here}, with {', '.join(f'{each} {version}' for each, version in have.items())} as tested"
        )


def _theirs(answers: Mapping[int, Any]) -> Iterable[Finding]:
    able = {node: {key: top for key, _, top, _ in answer.api_keys} for node, answer in answers.items()}
    for apis, level in ((NEEDED, wrong), (WANTED, warning)):
        for key, name in apis.items():
            lacking = [str(node) for node, known in able.items() if key not in known]
            if lacking:
                effect = "no worker can run" if apis is NEEDED else "after a crash workers cannot ask how it ended"
                yield level("api", f"broker {some(lacking)} does not know {name}: {effect}", "upgrade Kafka", name)
    if len({tuple(sorted(known.items())) for known in able.values()}) > 1:
        yield warning(
            "kafka",
            "the brokers do not all speak the same versions of their requests: an upgrade is under way",
            "finish it; a worker goes by what each broker says",
        )
    features = next((features_of(answer) for answer in answers.values()), {})
    level_of_kafka = features.pop(KAFKAS_FEATURE, None)
    others = "".join(f", {name} {level}" for name, level in sorted(features.items()))
    if level_of_kafka is None:
        yield ok("kafka", "the brokers do not tell their feature level (Kafka before 3.3, or with ZooKeeper)")
    else:
        yield ok("kafka", f"the cluster's feature level is {KAFKAS_FEATURE} {level_of_kafka}{others}")


async def _answers(patient: Patient, nodes: list[int]) -> list[Any]:
    """What each broker says; None of one that does not answer, which is another check's finding."""

    async def answer(node: int) -> Any:
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                return await patient.ask(node, ApiVersionsRequest())
        except UNREACHABLE:
            return None

    return await asyncio.gather(*map(answer, nodes))
