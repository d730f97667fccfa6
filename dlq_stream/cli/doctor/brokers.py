"""Whether every broker can be reached: the addresses that were given, and those that the brokers give themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from dlq_stream.cli.doctor.finding import Finding, counted, ok, some, wrong
from dlq_stream.cli.doctor.patient import ANSWER_SECONDS_MAX, Patient
from dlq_stream.cli.doctor.protocol import ApiVersionsRequest
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.kafka import CONNECT_SECONDS_MAX, UNREACHABLE
from dlq_stream.kafka_probe import problem_of
from dlq_stream.settings import Settings


async def addresses(settings: Settings) -> list[Finding]:
    """A finding for each address that was given; needs no client that is connected already."""
    return await asyncio.gather(*(_at(settings, address) for address in settings.connection.brokers))


async def _at(settings: Settings, address: str) -> Finding:
    try:
        problem = await problem_of(address, settings.connection.security, CONNECT_SECONDS_MAX)
    except ConfigurationError as error:  # it begins with the address, and ends with the fix
        return wrong(
            "refused",
            str(error),
            "correct the settings of TLS and SASL, or what the brokers know of this user",
            address,
        )
    if problem:
        fix = "start that broker, or take its address out of --brokers / DLQ_BROKERS"
        return wrong("address", f"no broker answers at {problem}", fix, address)
    return ok("address", f"a broker answers at {address}", address)


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
