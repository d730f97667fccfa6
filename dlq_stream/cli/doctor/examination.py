"""All checks, side by side: each within its time, and one that fails is itself a finding."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiokafka.errors import KafkaError

from dlq_stream.cli.doctor import (
    brokers,
    clocks,
    lag,
    members,
    messages,
    replication,
    rights,
    topics,
    transactions,
    versions,
)
from dlq_stream.cli.doctor.finding import Finding, Level, halves, warning, wrong
from dlq_stream.cli.doctor.patient import Patient
from dlq_stream.cli.run import NOT_ALLOWED
from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError, DLQError, NotAllowed
from dlq_stream.kafka import UNREACHABLE, admin_client, wait_for_brokers
from dlq_stream.settings import Settings

log = logging.getLogger(__name__)

Check = Callable[[Patient], Awaitable[list[Finding]]]

CHECKS: Final[Mapping[str, Check]] = {
    "brokers": brokers.check,
    "versions": versions.check,
    "topics": topics.check,
    "replication": replication.check,
    "rights": rights.check,
    "members": members.check,
    "lag": lag.check,
    "transactions": transactions.check,
    "clocks": clocks.check,
    "messages": messages.check,
}
"""By name, in the order in which findings are shown; each is independent of the others."""

ADDRESSES: Final = "brokers"
"""What findings about the addresses that were given are shown under, too."""

_ASK_ANOTHER: Final = "grant the right, or ask as another user"


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found, by check; and whether any broker answered at all."""

    findings: tuple[tuple[str, Finding], ...]
    reached: bool

    @property
    def verdict(self) -> Level:
        """The worst level of all."""
        order = list(Level)
        return max((finding.level for _, finding in self.findings), key=order.index, default=Level.OK)

    def count(self, level: Level) -> int:
        """How many findings are of this level."""
        return sum(finding.level is level for _, finding in self.findings)


async def examine(settings: Settings, checks: Mapping[str, Check] = CHECKS) -> Examination:
    """Wait for one broker that answers, then check everything.  Raises nothing that brokers are to blame for."""
    reached, let_in = True, True
    try:
        await wait_for_brokers(settings.connection, settings.wait_seconds)
    except BrokersUnavailable:
        reached = False
    except ConfigurationError:  # which the findings about addresses say
        let_in = False
    found = [(ADDRESSES, finding) for finding in await brokers.addresses(settings)]
    if reached and let_in:
        found += await _checked(settings, checks)
    return Examination(tuple(found), reached)


async def _checked(settings: Settings, checks: Mapping[str, Check]) -> list[tuple[str, Finding]]:
    async with admin_client(settings.connection) as admin:
        patient = Patient(settings, admin)
        try:
            results = await asyncio.gather(*(_one(check, patient) for check in checks.values()))
        finally:
            await patient.close()
    return [(name, finding) for name, findings in zip(checks, results, strict=True) for finding in findings]


async def _one(check: Check, patient: Patient) -> list[Finding]:
    seconds = patient.settings.doctor_seconds
    try:
        async with asyncio.timeout(seconds):
            return await check(patient)
    except NotAllowed as error:
        what, fix = halves(str(error), _ASK_ANOTHER)
        return [warning("unchecked", f"not checked: {what}", fix)]
    except NOT_ALLOWED as error:
        return [warning("unchecked", f"not checked: the brokers refuse ({_words(error)})", _ASK_ANOTHER)]
    except TimeoutError:
        return [wrong("unchecked", f"not checked: no answer within {seconds:g} s", "see whether the brokers hang")]
    except UNREACHABLE as error:
        return [
            wrong("unchecked", f"not checked: a broker does not answer ({_words(error)})", "see the brokers' findings")
        ]
    except (DLQError, KafkaError) as error:
        return [warning("unchecked", f"not checked: {str(error) or _words(error)}", "see the other findings")]
    except Exception as error:
        log.exception("a check failed")
        return [wrong("unchecked", f"not checked: {error!r}", "report this; --log-level error shows where it failed")]


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
