"""Open transactions that hold readers back, and whose they are.

A reader of committed records gets no further than the first open transaction of a partition, whoever opened it: its
last stable offset.  Workers' own transactions take milliseconds, so what is behind at one look counts only if it is
still there at the next.  Who it is, leaders and coordinators tell since Kafka 3.0 (KIP-664).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, for_code

from dlq_stream.cli.doctor.finding import Finding, counted, ok, warning, wrong
from dlq_stream.cli.doctor.patient import Patient, Place
from dlq_stream.cli.doctor.protocol import DescribeProducersRequest, ListTransactionsRequest
from dlq_stream.core.destinations import DEAD_LETTER_SUFFIX, RETRY_SUFFIX, is_legal_topic
from dlq_stream.core.errors import DLQError
from dlq_stream.runtime.settlement import DescribeTransactionsRequest

SECOND_LOOK_SECONDS: Final = 1.5
"""Between two looks at the same partitions."""

TOPICS_MAX: Final = 500
"""So many topics are looked at besides the app's own; queues are named by whoever sends failures."""

PLACES_ASKED_MAX: Final = 20
"""Partitions that are behind whose producers are asked for."""


class Holder(NamedTuple):
    """Who holds a partition back: what there is to know of an open transaction."""

    place: Place
    from_offset: int
    producer_id: int
    transactional_id: str
    """Empty where no coordinator knows of it: nobody will ever end it."""
    open_ms: int
    timeout_ms: int


async def check(patient: Patient) -> list[Finding]:
    """The app's topics, the topics that queues are named after, those named by the settings, and their ``-dlq``."""
    places = await patient.places([*patient.topics.all, *await _topics_besides(patient)])
    if not places:
        return [ok("transaction", "there is no topic to look at")]
    behind = await _behind(patient, places)
    if behind:
        await asyncio.sleep(SECOND_LOOK_SECONDS)
        again = await _behind(patient, {place: places[place] for place in behind})
        behind = {place: offset for place, offset in again.items() if behind[place] == offset}
    if not behind:
        count = counted(len({topic for topic, _ in places}), "topic")
        return [ok("transaction", f"no open transaction holds back the readers of {count}")]
    found: list[Finding] = []
    for place in sorted(behind)[:PLACES_ASKED_MAX]:
        found += await _findings(patient, place, places[place], behind[place])
    if len(behind) > PLACES_ASKED_MAX:
        more = len(behind) - PLACES_ASKED_MAX
        found.append(wrong("transaction", f"{counted(more, 'more partition')} held back", "see the others"))
    return found


async def _topics_besides(patient: Patient) -> list[str]:
    """Sources that are known: by queues, and by settings."""
    settings = patient.settings
    try:
        queues = list((await patient.figures()).queues)
    except DLQError:  # said by others
        queues = []
    sources = [*settings.doctor_source, *settings.init_source, *settings.queues, *queues]
    wanted = dict.fromkeys(
        name
        for source in sources[:TOPICS_MAX]
        for name in (source, f"{source}{DEAD_LETTER_SUFFIX}", f"{source}{RETRY_SUFFIX}")
        if is_legal_topic(name)
    )
    return list(wanted)


async def _behind(patient: Patient, places: Mapping[Place, int]) -> dict[Place, int]:
    """The last stable offset of each partition whose readers cannot get to the end."""
    stable = await patient.ends(places, committed=True)
    ends = await patient.ends(places)  # asked later, so never less than it was
    return {place: offset for place, offset in stable.items() if offset < ends.get(place, offset)}


async def _findings(patient: Patient, place: Place, leader: int, stable: int) -> Iterable[Finding]:
    where = f"{place[0]} partition {place[1]}"
    held = f"readers of {where} get no further than offset {stable}"
    try:
        holders = await _holders(patient, place, leader)
    except (KafkaError, IncompatibleBrokerVersion) as error:
        fix = "kafka-transactions.sh find-hanging (Kafka 3.0) names it, with the right Read on the topic"
        return [
            wrong("transaction", f"{held}: an open transaction, of whom the brokers do not say ({error!r})", fix, where)
        ]
    if not holders:
        return []  # it has ended meanwhile
    return [_finding(held, where, holder, patient.settings.doctor_held_seconds) for holder in holders]


def _finding(held: str, where: str, holder: Holder, seconds_max: float) -> Finding:
    topic, partition = holder.place
    abort = f"kafka-transactions.sh abort --topic {topic} --partition {partition} --start-offset {holder.from_offset}"
    since = f"for {holder.open_ms / 1000:.0f} s"
    if not holder.transactional_id:
        what = f"{held}: producer {holder.producer_id} left a transaction open {since}, and no coordinator knows of it"
        return wrong("transaction", what, abort, where)
    what = f"{held}: {holder.transactional_id!r} (producer {holder.producer_id}) has a transaction open {since}"
    fix = (
        f"end that program's transaction; brokers abort it {holder.timeout_ms / 1000:.0f} s after its begin; or {abort}"
    )
    return (wrong if holder.open_ms > 1000 * seconds_max else warning)("transaction", what, fix, where)


async def _holders(patient: Patient, place: Place, leader: int) -> list[Holder]:
    """The open transactions of a partition, oldest first."""
    answer = await patient.ask(leader, DescribeProducersRequest(*place))
    [(_, [(_, code, message, producers, _)], _)] = answer.topics
    if code:
        raise for_code(code)(message or "")
    open_ = sorted((each for each in producers if each[5] >= 0), key=lambda each: int(each[5]))
    return [await _holder(patient, place, each) for each in open_]


async def _holder(patient: Patient, place: Place, producer: Any) -> Holder:
    producer_id, _, _, last_timestamp, _, begin, _ = producer
    name = await _transactional_id(patient, producer_id)
    started, timeout_ms = last_timestamp, 0
    if name:
        answer = await patient.ask(await patient.coordinator_of(name), DescribeTransactionsRequest(name))
        [(code, _, _, timeout_ms, started, *_)] = answer.transaction_states
        if code or started < 0:
            name, started, timeout_ms = "", last_timestamp, 0
    return Holder(place, begin, producer_id, name, max(0, patient.now_ms() - started), timeout_ms)


async def _transactional_id(patient: Patient, producer_id: int) -> str:
    """Whose producer it is; empty where no coordinator knows."""
    for node in await patient.nodes():
        answer = await patient.ask(node, ListTransactionsRequest([producer_id]))
        for name, found, _, _ in answer.transaction_states:
            if found == producer_id:
                return str(name)
    return ""
