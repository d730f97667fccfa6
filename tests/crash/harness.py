"""One crash scenario from beginning to end: topics, workers, traffic, trouble, and the verdict on what is left.

A scenario is a story (`story`), a fleet of workers (`fleet`), traffic (`traffic`) and *trouble*: a coroutine function
that does to the fleet what the scenario is about, while messages fail and timers fire.  New scenarios bring new trouble
and keep the rest:

    async def trouble(fleet, rng, traffic): ...
    result = await play(kafka, tmp_path, Scenario(seed=1, count=3_000, per_second=100, workers=("a", "b")), trouble)
    assert result.findings.are_none, result.findings
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiokafka import ConsumerRecord

from dlq_stream.settings import Settings
from dlq_stream.topics import AppTopics
from tests.crash.checks import Evidence, Findings, judge
from tests.crash.fleet import COMMAND, KILL, Comeback, Fleet, code_from
from tests.crash.state import tables
from tests.crash.story import BACKOFF_MULTIPLIER, INITIAL_BACKOFF_MS, MAX_RETRIES, PARTITIONS, Story, story
from tests.crash.traffic import DELIVERY_HEADERS, Topics, Traffic, delivery_of
from tests.kafka_clients import committed_offsets, create_topics, read_topic
from tests.kafka_fixture import unique_name

SESSION_SECONDS = 6
"""The workers' session time-out; the brokers' default minimum."""

PATIENCE_SECONDS = 60.0
"""How long nothing may come before what is missing counts as lost: beyond any time-out of the system."""

GRACE_SECONDS = 1.5
"""How long the workers go on after everything came, so that what comes twice has the time to."""

PAUSE_MS_MAX = 40_000
"""So long after the beginning of a trouble a pause is looked for."""

Trouble = Callable[[Fleet, random.Random, Traffic], Coroutine[Any, Any, None]]
"""What a scenario does to the fleet, given its own chance, and the traffic: how long that takes, and what it sees."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """How many messages fail, how fast, on which workers; ``seed`` decides everything that is left to chance."""

    seed: int
    count: int
    per_second: float
    workers: tuple[str, ...]
    exits: tuple[int, ...] = (-signal.SIGKILL,)
    """Exit codes that trouble may bring about."""
    replication: int = 1
    """Replicas of the agents' topics; the app's own are as ``init`` makes them."""
    source: Path | None = None
    """Where the code lies that ``init`` and the workers run at the beginning; this tree's where it is None."""
    waiting: int = 0
    """Messages beside those, which fail before anything else and are pending all the time."""
    standby_replicas: int = 0
    """The workers' setting."""


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict, and the figures to print."""

    scenario: Scenario
    findings: Findings
    story: Story
    comebacks: tuple[Comeback, ...]
    first_retry_seconds: tuple[float | None, ...]
    stop_seconds: float
    seconds: float

    @property
    def seed(self) -> int:
        """What everything that is left to chance was decided by."""
        return self.scenario.seed

    @property
    def count(self) -> int:
        """How many messages failed."""
        return self.scenario.count

    @property
    def retries(self) -> int:
        """How many retries there had to be."""
        return len(list(self.story.retries()))

    @property
    def line(self) -> str:
        """One line for people."""
        count = self.findings.count
        troubles = ", ".join(
            f"{each.worker}"
            + (f" {each.what}" if each.what != KILL else "")
            + (f" ready after {each.ready_seconds:.1f} s" if each.ready_seconds is not None else "")
            + (f" and emitting after {first:.1f} s" if first is not None else "")
            + (f", {each.detail}" if each.detail else "")
            for each, first in zip(self.comebacks, self.first_retry_seconds, strict=True)
        )
        return (
            f"seed {self.scenario.seed}: {self.scenario.count} failures, {self.scenario.waiting} waiting, "
            f"{len(list(self.story.retries()))} retries, {len(list(self.story.dead_letters()))} dead letters, "
            f"{len(self.comebacks)} troubles ({troubles}); lost {count('lost')}, duplicates {count('duplicate')}, "
            f"early {count('early')}, state differences {count('state')}, table differences {count('tables')}, "
            f"statistics differences {count('statistics')}; stopped in {self.stop_seconds:.1f} s, "
            f"{self.seconds:.0f} s in all"
        )


class Brokers(Protocol):
    """A cluster, as far as a scenario has to know it: `LocalKafka`, or several of them."""

    bootstrap: str


async def play(
    kafka: Brokers,
    directory: Path,
    scenario: Scenario,
    trouble: Trouble,
    arrange: Callable[[Fleet], object] = lambda fleet: None,
) -> Result:
    """Play a scenario on brokers, with the workers' directories and logs under ``directory``.

    ``arrange`` may change the workers before they start for the first time.
    """
    began = time.monotonic()
    the_story = story(scenario.seed, scenario.count, scenario.waiting)
    settings = settings_of(kafka, unique_name("app"), scenario.standby_replicas)
    app = AppTopics(settings.app_id)
    topics = Topics(app.failures, app.commands, unique_name("heat"))
    await _prepare(settings, topics, scenario)
    traffic = Traffic(kafka.bootstrap, topics, the_story, scenario.per_second)
    fleet = Fleet(directory, scenario.workers, environment_of(settings))
    for worker in fleet.workers.values():
        worker.source = scenario.source
    arrange(fleet)
    async with fleet:
        await fleet.until_shared(PARTITIONS)
        if scenario.waiting:
            ends = await traffic.report_beforehand()
            await _until_taken_in(settings, {(topics.failures, number): end for number, end in ends.items()}, fleet)
        async with asyncio.TaskGroup() as both:
            both.create_task(trouble(fleet, random.Random(scenario.seed), traffic))
            both.create_task(traffic.run(PATIENCE_SECONDS))
        await _until_read(settings, topics)
        await asyncio.sleep(GRACE_SECONDS)
        stop_seconds = await fleet.stop()
    evidence = await _evidence(settings, topics, app, fleet)
    findings = judge(the_story, evidence)
    findings.faults["workers"] += wrong_ends(fleet, scenario.exits)
    return Result(
        scenario=scenario,
        findings=findings,
        story=the_story,
        comebacks=tuple(fleet.comebacks),
        first_retry_seconds=tuple(back_at_work(the_story, fleet.comebacks, evidence.retries)),
        stop_seconds=stop_seconds,
        seconds=time.monotonic() - began,
    )


def settings_of(kafka: Brokers, app_id: str, standby_replicas: int = 0) -> Settings:
    """The settings of a scenario's workers, but for what is a worker's own."""
    return Settings(
        brokers=kafka.bootstrap,
        app_id=app_id,
        partitions=PARTITIONS,
        session_timeout_seconds=SESSION_SECONDS,
        max_retries=MAX_RETRIES,
        initial_backoff_seconds=INITIAL_BACKOFF_MS / 1000,
        backoff_multiplier=BACKOFF_MULTIPLIER,
        standby_replicas=standby_replicas,
    )


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment of a process with these settings and no others of ours."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("DLQ_")}
    ours = {f"DLQ_{name.upper()}": str(getattr(settings, name)) for name in settings.model_fields_set}
    return others | ours


def wrong_ends(fleet: Fleet, exits: Collection[int]) -> list[str]:
    """Processes that ended otherwise than trouble explains, or did not end with 0 when they were told to."""
    found = []
    for worker in fleet.workers.values():
        *former, last = worker.exits or [-1]
        if last != 0:
            found.append(f"{worker.name} was told to stop and ended with {last}, of {worker.exits}")
        found += [f"{worker.name} ended with {code}" for code in former if code not in {0, *exits}]
        if former.count(0) != worker.told:
            found.append(f"{worker.name} was told to end {worker.told} times and did {former.count(0)} times")
        kills = sum(each.worker == worker.name and each.what == KILL for each in fleet.comebacks)
        if former.count(-signal.SIGKILL) != kills:
            found.append(f"{worker.name} was killed {kills} times and died {former.count(-signal.SIGKILL)} times")
    return found


def first_retry_seconds(the_story: Story, comeback: Comeback, retries: Collection[ConsumerRecord]) -> float | None:
    """From a kill to the first retry that was appended for a partition of that worker's; None where none came."""
    by_id = the_story.by_id()
    after = [
        record.timestamp - comeback.killed_ms
        for record in retries
        if record.timestamp > comeback.killed_ms
        and (message := by_id.get(delivery_of(record).id)) is not None
        and message.home in comeback.partitions
    ]
    return min(after) / 1000 if after else None


def back_at_work(the_story: Story, comebacks: Sequence[Comeback], retries: Collection[ConsumerRecord]) -> Iterator[Any]:
    """How many seconds each trouble held up retries; None where none fell due.

    Where the trouble has waited for a retry, that says it.  A killed worker emits nothing more, so its first retry is
    that.  Of other troubles it is the longest that a retry of those partitions was due, from the beginning of the
    trouble on and before the next one of theirs, and had not been appended.
    """
    by_id = the_story.by_id()
    emitted = [
        (int(dict(record.headers)["dlq-due-at"] or b""), record.timestamp, message.home)
        for record in retries
        if (message := by_id.get(delivery_of(record).id)) is not None
    ]
    for number, each in enumerate(comebacks):
        if each.emitting_seconds is not None:
            yield each.emitting_seconds
            continue
        if each.what == KILL:
            yield first_retry_seconds(the_story, each, retries)
            continue
        following = [next_.killed_ms for next_ in comebacks[number + 1 :] if next_.partitions & each.partitions]
        stop_ms = min(following, default=each.killed_ms + PAUSE_MS_MAX)
        waits = [
            at - max(due, each.killed_ms)
            for due, at, home in emitted
            if home in each.partitions and each.killed_ms < at < stop_ms
        ]
        yield max(waits) / 1000 if waits else None


async def _prepare(settings: Settings, topics: Topics, scenario: Scenario) -> None:
    """Create the app's topics by its own command, and those of the agents with the brokers' stamps."""
    await init(environment_of(settings), scenario.source)
    stamped = {"message.timestamp.type": "LogAppendTime"}
    names = topics.source, topics.dead_letters
    await create_topics(
        settings.brokers, *names, partitions=PARTITIONS, replication=scenario.replication, config=stamped
    )


async def init(environment: Mapping[str, str], source: Path | None = None) -> None:
    """``dlq-stream init`` of the code in ``source``, this tree's where it is None; completes what an older one left."""
    done = await asyncio.to_thread(
        subprocess.run,
        [*COMMAND, "init"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=source,
        env=code_from(source, environment),
    )
    if done.returncode:
        raise RuntimeError(f"init failed: {done.stderr}")


async def _until_taken_in(settings: Settings, ends: Mapping[tuple[str, int], int], fleet: Fleet) -> None:
    """Wait until the group has processed what was reported beforehand; raises TimeoutError where it does not get on."""
    at, progress = await _committed(settings), time.monotonic()
    while not _is_past(at, ends):
        if time.monotonic() - progress > PATIENCE_SECONDS:
            raise TimeoutError(f"the workers stand at {at} of {ends}: {fleet.last_words()}")
        await asyncio.sleep(0.1)
        before, at = at, await _committed(settings)
        if at != before:
            progress = time.monotonic()


async def _until_read(settings: Settings, topics: Topics) -> None:
    """Wait until the group has processed the last answer; what it has not by then, the verdict will find unread."""
    ends: dict[tuple[str, int], int] = {}
    for topic in (topics.failures, topics.commands):
        for record in await read_topic(settings.brokers, topic, keep=_bare):
            ends[topic, record.partition] = record.offset + 1
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if _is_past(await _committed(settings), ends):
            return
        await asyncio.sleep(0.1)


def _is_past(at: Mapping[tuple[str, int], int], ends: Mapping[tuple[str, int], int]) -> bool:
    return all(at.get(place, 0) >= end for place, end in ends.items())


def _bare(record: ConsumerRecord) -> ConsumerRecord:
    """A failure event without what the verdict does not look at: there may be hundreds of thousands of them."""
    headers = tuple(header for header in record.headers if header[0] in DELIVERY_HEADERS)
    return dataclasses.replace(record, value=None, headers=headers)


async def _committed(settings: Settings) -> dict[tuple[str, int], int]:
    offsets = await committed_offsets(settings.brokers, settings.app_id)
    return {(place.topic, place.partition): offset for place, offset in offsets.items()}


async def _evidence(settings: Settings, topics: Topics, app: AppTopics, fleet: Fleet) -> Evidence:
    names = (topics.commands, topics.source, topics.dead_letters, app.quarantine)
    commands, retries, dead_letters, quarantine = [await read_topic(settings.brokers, name) for name in names]
    return Evidence(
        failures=await read_topic(settings.brokers, topics.failures, keep=_bare),
        commands=commands,
        retries=retries,
        dead_letters=dead_letters,
        quarantine=quarantine,
        committed=await _committed(settings),
        tables=await tables(settings, {worker.name: worker.data for worker in fleet.workers.values()}),
        owners={number: worker.name for worker in fleet.workers.values() for number in worker.partitions()},
    )
