"""Whether clocks agree, found out without writing anything.

* *Workers*: the latest row of each partition of the ``stats`` changelog holds the worker's time, and the broker's of
  when it was appended.  That is after the worker looked at its clock, so a worker that is ahead shows at once, while
  one that is behind cannot be told from one whose commit took as long.
* *This machine*: the leader of the controllers tells its own time when it is asked how the quorum is (KIP-836, Kafka
  3.3 with KRaft), give or take the time that the answer takes.  Of other brokers' clocks nothing is known.
"""

from __future__ import annotations

import time
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import for_code

from dlq_stream.cli.doctor.finding import Finding, ok, some, warning, wrong
from dlq_stream.cli.doctor.patient import Patient
from dlq_stream.cli.doctor.protocol import DescribeQuorumRequest
from dlq_stream.kafka import reader
from dlq_stream.reading import records_until
from dlq_stream.tables import stats
from dlq_stream.tables.marker import MARKER_KEY

SKEW_MS_MAX: Final = 1_000
"""A larger skew is wrong: retries go out early or late by it."""

RECENT_MS: Final = 86_400_000
"""Older rows say nothing about today's clocks."""

TAIL_OFFSETS: Final = 50
"""So many offsets before the end of a partition are read for its latest row."""


async def check(patient: Patient) -> list[Finding]:
    """This machine's clock, then the workers'."""
    return [await _this_machine(patient), *await _workers(patient)]


async def _this_machine(patient: Patient) -> Finding:
    code = "clock"
    try:
        before = time.monotonic()
        answer = await patient.ask_any(DescribeQuorumRequest())
        took_ms = (time.monotonic() - before) * 1000
        theirs = _leaders_time(answer)
    except NotImplementedError:  # aiokafka's word for a broker that is older than the request
        theirs = None
    if theirs is None:
        return ok(code, "the brokers do not tell their time (Kafka before 3.3, or the right Describe on the cluster)")
    skew_ms = patient.now_ms() - took_ms / 2 - theirs
    told = f"this machine's clock is {abs(skew_ms):.0f} ms {'ahead of' if skew_ms > 0 else 'behind'} the controller's"
    if abs(skew_ms) - took_ms / 2 > SKEW_MS_MAX:
        return wrong(code, told, "synchronise both with NTP (chronyc tracking, timedatectl)")
    return ok(code, f"{told}, give or take {took_ms / 2:.0f}")


def _leaders_time(answer: Any) -> int | None:
    if answer.error_code or not answer.topics:
        return None
    [(_, [(_, code, leader, _, _, voters, _, _)], _)] = answer.topics
    if code:
        raise for_code(code)("the quorum of controllers")
    return next((int(each[2]) for each in voters if each[0] == leader and each[2] > 0), None)


async def _workers(patient: Patient) -> list[Finding]:
    skews = await _skews_ms(patient)
    if not skews:
        return [ok("worker-clock", "no worker has counted anything in a day: nothing is known of their clocks")]
    ahead = {partition: skew for partition, skew in skews.items() if skew > SKEW_MS_MAX}
    behind = {partition: -skew for partition, skew in skews.items() if skew < -SKEW_MS_MAX}
    found = []
    if ahead:
        found.append(
            wrong(
                "worker-clock",
                f"the clock of whoever has partition {_numbers(ahead)} is up to {max(ahead.values())} ms ahead of the "
                "brokers': retries go out early",
                "synchronise that machine and the brokers with NTP (chronyc tracking, timedatectl)",
            )
        )
    if behind:
        slow_ms = 1000 * patient.settings.transaction_timeout_seconds
        level = wrong if max(behind.values()) > SKEW_MS_MAX + slow_ms else warning
        found.append(
            level(
                "worker-clock",
                f"the clock of whoever has partition {_numbers(behind)} is up to {max(behind.values())} ms behind the "
                "brokers', or its commits take as long: retries go out late",
                "synchronise that machine and the brokers with NTP; see how long its commits take",
            )
        )
    return found or [ok("worker-clock", f"workers' clocks agree with the brokers' in {len(skews)} partitions")]


def _numbers(skews: dict[int, int]) -> str:
    return some([str(partition) for partition in sorted(skews)])


async def _skews_ms(patient: Patient) -> dict[int, int]:
    """By partition of the changelog: by how much the worker's clock was ahead when it last changed a figure."""
    topic = stats.TABLE.changelog(patient.settings.app_id)
    places = [TopicPartition(*place) for place in await patient.places([topic])]
    skews: dict[int, int] = {}
    if not places:
        return skews
    async with reader(patient.settings.connection) as consumer:
        consumer.assign(places)
        begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        for place in places:
            consumer.seek(place, max(begins[place], ends[place] - TAIL_OFFSETS))
        async for record in records_until(consumer, ends):
            if record.key == MARKER_KEY or record.value is None or patient.now_ms() - record.timestamp > RECENT_MS:
                continue
            skews[record.partition] = stats.codec.decode(record.value).updated_ms - record.timestamp
    return skews
