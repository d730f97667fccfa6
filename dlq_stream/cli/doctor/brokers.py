"""Whether every broker can be reached: the addresses that were given, and those that the brokers give themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from dlq_stream.cli.doctor.finding import Finding, counted, ok, some, wrong
from dlq_stream.cli.doctor.patient import ANSWER_SECONDS_MAX, Patient
from dlq_stream.cli.doctor.protocol import ApiVersionsRequest
from dlq_stream.core.errors import BrokersUnavailable
from dlq_stream.kafka import UNREACHABLE, split_brokers, wait_for_brokers
from dlq_stream.settings import Settings


async def addresses(settings: Settings) -> list[Finding]:
    """A finding for each address that was given; needs no client that is connected already."""
    given = split_brokers(settings.brokers)
    problems = await asyncio.gather(*(_problem_of(settings, address) for address in given))
    return [
        wrong(
            "address",
            f"no broker answers at {address}{f' ({problem})' if problem else ''}",
            "start that broker, or take its address out of --brokers / DLQ_BROKERS",
            address,
        )
        if problem is not None
        else ok("address", f"a broker answers at {address}", address)
        for address, problem in zip(given, problems, strict=True)
    ]


async def _problem_of(settings: Settings, address: str) -> str | None:
    """What is wrong with an address; None where a broker answers there."""
    try:
        await wait_for_brokers(address, 0)
    except BrokersUnavailable as error:
        return str(error).partition(f"({address}: ")[2].rpartition("); check")[0]
    return None


async def check(patient: Patient) -> list[Finding]:
    """Whether the addresses that the brokers tell their clients can be reached from here."""
    told = await patient.listed()
    problems = await asyncio.gather(*(_silence_of(patient, node) for node, _ in told))
    silent = [(node, address, problem) for (node, address), problem in zip(told, problems, strict=True) if problem]
    if not silent:
        return [ok("broker", f"{counted(len(told), 'broker')} can be reached: {some([a for _, a in told])}")]
    return list(_unreachable(silent))


def _unreachable(silent: Iterable[tuple[int, str, str]]) -> Iterable[Finding]:
    for node, address, problem in silent:
        yield wrong(
            "broker",
            f"broker {node} does not answer at {address}, which is where it tells clients to go ({problem})",
            "start it; or if it runs, correct its advertised.listeners, or the network between",
            str(node),
        )


async def _silence_of(patient: Patient, node: int) -> str:
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            answer: Any = await patient.ask(node, ApiVersionsRequest())
    except UNREACHABLE as error:
        return str(error) or type(error).__name__
    return f"error {answer.error_code}" if answer.error_code else ""
