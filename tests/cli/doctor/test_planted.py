"""What is wrong on a real cluster is found, with its fix: each thing is planted, and a healthy app is left alone."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import ClusterAuthorizationFailedError

from dlq_stream.cli.doctor.examination import CHECKS, examine
from dlq_stream.cli.doctor.finding import Finding, Level, ok
from dlq_stream.cli.doctor.patient import Patient
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.kafka import writer
from dlq_stream.settings import Settings
from dlq_stream.tables.stats import Stats, codec, stats_key
from dlq_stream.topics import create_or_verify
from tests.integration.acls import WRITE, forbid
from tests.kafka_clients import Outgoing, admin, create_topics, delete_topic, produce
from tests.kafka_fixture import KafkaFactory, LocalKafka, unique_name


async def app(kafka: LocalKafka, **changes: object) -> Settings:
    """An app with its topics, and nothing that runs."""
    settings = Settings(brokers=kafka.bootstrap, app_id=unique_name("app"), partitions=2, wait_seconds=5, **changes)
    await create_or_verify(settings)
    return settings


async def found_by(check: str, settings: Settings, **changes: object) -> list[Finding]:
    """What one check finds."""
    examined = await examine(settings.model_copy(update=changes), {check: CHECKS[check]})
    return [finding for name, finding in examined.findings if name == check and finding.code != "address"]


async def test_an_app_without_workers(kafka: LocalKafka) -> None:
    """Every check has something to say, and nothing is wrong."""
    examined = await examine(await app(kafka))
    assert {name for name, _ in examined.findings} == set(CHECKS)
    assert (examined.reached, examined.count(Level.WRONG)) == (True, 0), examined.findings
    assert [finding.what for _, finding in examined.findings if finding.level is Level.WARNING][1:] == [
        "no worker runs"
    ]
    assert all(bool(finding.fix) is (finding.level is not Level.OK) for _, finding in examined.findings)
    (clock, workers) = [finding for name, finding in examined.findings if name == "clocks"]
    assert "this machine's clock is" in clock.what
    assert "nothing is known of their clocks" in workers.what


async def test_a_missing_topic(kafka: LocalKafka) -> None:
    """Is named, with what to run; the other checks still have their say."""
    settings = await app(kafka)
    await delete_topic(settings.brokers, f"{settings.app_id}-quarantine")
    examined = await examine(settings)
    (finding,) = [finding for _, finding in examined.findings if finding.level is Level.WRONG]
    assert (finding.code, finding.subject) == ("topic", f"{settings.app_id}-quarantine")
    assert "does not exist" in finding.what
    assert finding.fix.startswith("run `dlq-stream init`")
    assert {name for name, _ in examined.findings} == set(CHECKS)


async def test_a_topic_that_is_not_as_it_should_be(kafka: LocalKafka) -> None:
    """Each setting is a finding of its own, with the command that mends it."""
    settings = await app(kafka)
    topic = f"{settings.app_id}-stats-changelog"
    async with admin(settings.brokers) as client:
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"cleanup.policy": "delete"})])
    found = await found_by("topics", settings)
    (finding,) = [each for each in found if "cleanup.policy" in each.what]
    assert (finding.level, finding.subject) == (Level.WRONG, topic)
    assert finding.what == f"topic {topic}: cleanup.policy is delete, expected compact"
    assert finding.fix.endswith("--add-config cleanup.policy=compact")


async def test_an_open_transaction(kafka: LocalKafka) -> None:
    """Whose it is, where, since when, and how to end it: of the app's topics, of sources and of their dead letters."""
    settings = await app(kafka)
    source, name = unique_name("source"), unique_name("somebody")
    await create_topics(settings.brokers, source, f"{source}-dlq", partitions=1)
    failures = f"{settings.app_id}-failures"
    async with writer(settings.connection, transactional_id=name, transaction_timeout_ms=60_000) as producer:
        assert [each.level for each in await found_by("transactions", settings)] == [Level.OK]
        await producer.begin_transaction()
        for topic in (failures, source, f"{source}-dlq"):
            await producer.send_and_wait(topic, b"x", partition=0)
        held = await found_by("transactions", settings, doctor_source=(source,), doctor_held_seconds=0)
        patient = await found_by("transactions", settings, doctor_held_seconds=900)
        await producer.abort_transaction()
    assert [(each.level, each.subject) for each in held] == [
        (Level.WRONG, f"{topic} partition 0") for topic in (failures, source, f"{source}-dlq")
    ]
    assert f"readers of {failures} partition 0 get no further than offset 0: {name!r} (producer" in held[0].what
    assert "brokers abort it 60 s after its begin" in held[0].fix
    assert f"kafka-transactions.sh abort --topic {failures} --partition 0 --start-offset 0" in held[0].fix
    assert [each.level for each in patient] == [Level.WARNING]
    assert [each.level for each in await found_by("transactions", settings)] == [Level.OK]


async def test_reports_that_nobody_takes_in(kafka: LocalKafka) -> None:
    """Wrong, since no worker runs."""
    settings = await app(kafka)
    await produce(settings.brokers, [Outgoing(f"{settings.app_id}-failures", b"x", partition=0)])
    failures, commands = await found_by("lag", settings)
    assert (failures.level, commands.level) == (Level.WRONG, Level.OK)
    assert failures.what == f"1 record in {settings.app_id}-failures waits for a worker, and none runs"
    assert failures.fix == "start dlq-stream worker"


async def test_an_address_where_nobody_is(kafka: LocalKafka) -> None:
    """Among others that answer: the rest is checked all the same."""
    settings = await app(kafka)
    examined = await examine(settings.model_copy(update={"brokers": f"127.0.0.1:1,{settings.brokers}"}))
    (finding,) = [finding for _, finding in examined.findings if finding.level is Level.WRONG]
    assert (finding.code, finding.subject) == ("address", "127.0.0.1:1")
    assert {name for name, _ in examined.findings} == set(CHECKS)


async def test_no_broker_at_all() -> None:
    """Every address is a finding, and nothing else is tried."""
    examined = await examine(Settings(brokers="127.0.0.1:1,127.0.0.1:2", wait_seconds=0))
    assert [(name, finding.level, finding.subject) for name, finding in examined.findings] == [
        ("brokers", Level.WRONG, "127.0.0.1:1"),
        ("brokers", Level.WRONG, "127.0.0.1:2"),
    ]
    assert (examined.reached, examined.verdict) == (False, Level.WRONG)


async def counted_at(settings: Settings, partition: int, skew_ms: int) -> None:
    """A row of figures, as a worker writes it whose clock is so far ahead."""
    row = Stats(failures=1, updated_ms=int(time.time() * 1000) + skew_ms)
    key, topic = stats_key("heat", partition), f"{settings.app_id}-stats-changelog"
    await produce(settings.brokers, [Outgoing(topic, codec.encode(row), key, partition=partition)])


@pytest.mark.parametrize(
    ("skew_ms", "level", "told"),
    [
        (0, Level.OK, "workers' clocks agree with the brokers' in 2 partitions"),
        (5_000, Level.WRONG, "whoever has partition 1 is up to 4"),
        (-5_000, Level.WARNING, "whoever has partition 1 is up to 5"),
        (-60_000, Level.WRONG, "whoever has partition 1 is up to 60"),
    ],
)
async def test_a_worker_with_another_time(kafka: LocalKafka, skew_ms: int, level: Level, told: str) -> None:
    """Against the broker's, by the latest row of each partition; one that is behind may be slow instead."""
    settings = await app(kafka)
    await counted_at(settings, 0, 0)
    await counted_at(settings, 1, 999_000)
    await counted_at(settings, 1, skew_ms)
    _, workers = await found_by("clocks", settings)
    assert workers.level is level
    assert told in workers.what


async def test_what_waits_for_a_person(kafka: LocalKafka) -> None:
    """Stuck messages, dead letters that cannot be written, and quarantine: warnings, with reasons."""
    settings = await app(kafka)
    now = int(time.time() * 1000)
    row = Stats(
        stuck=2,
        stuck_reasons={"record-missing": 2},
        unwritten=4,
        unwritten_reasons={"missing": 3, "deferred": 1},
        updated_ms=now - 90_000,
    )
    await produce(
        settings.brokers,
        [
            Outgoing(f"{settings.app_id}-stats-changelog", codec.encode(row), stats_key("heat", 0), partition=0),
            Outgoing(f"{settings.app_id}-quarantine", b"what?", partition=1),
        ],
    )
    stuck, unwritten, quarantine, figures = await found_by("messages", settings)
    assert [each.level for each in (stuck, unwritten, quarantine)] == [Level.WARNING] * 3
    assert stuck.what == "2 messages of heat are stuck: record-missing 2"
    assert unwritten.what == "3 messages of heat given up and not in the -dlq topic: missing 3"
    assert (quarantine.code, quarantine.subject) == ("quarantine", f"{settings.app_id}-quarantine")
    assert figures.what.startswith("the figures last changed 1m3")


async def test_rights(kafka_factory: KafkaFactory) -> None:
    """What this user may not do with the app's topics, by the brokers' own word; one role's rights are enough."""
    settings = await app(kafka_factory(authorizer=True))
    (everything,) = await found_by("rights", settings)
    assert everything.what == "this user has the rights of init, worker, agent, operator"
    topic = f"{settings.app_id}-stats-changelog"
    await forbid(settings.brokers, topic, WRITE)
    (enough,) = await found_by("rights", settings)
    assert enough.level is Level.OK
    assert enough.what == (
        "this user has the rights of agent, operator; "
        f"it lacks what these need: init (Write on topic {topic}), worker (Write on topic {topic})"
    )
    (worker,) = await found_by("rights", settings, doctor_role="worker")
    assert (worker.level, worker.subject) == (Level.WARNING, "worker")
    assert worker.what == f"this user has not the rights of a worker: Write on topic {topic}"


async def test_a_check_that_fails_is_a_finding_and_the_others_run(kafka: LocalKafka) -> None:
    """Whatever it raises, or if it never ends."""

    async def hang(_: Patient) -> list[Finding]:
        await asyncio.Event().wait()
        return []

    async def refused(_: Patient) -> list[Finding]:
        raise ClusterAuthorizationFailedError

    async def confused(_: Patient) -> list[Finding]:
        raise ConfigurationError("the fix")

    async def broken(_: Patient) -> list[Finding]:
        raise ZeroDivisionError("ours")

    async def well(_: Patient) -> list[Finding]:
        return [ok("fine", "fine")]

    settings = Settings(brokers=kafka.bootstrap, doctor_seconds=0.5)
    checks = {"hang": hang, "refused": refused, "confused": confused, "broken": broken, "well": well}
    examined = await examine(settings, checks)
    assert [(name, each.level) for name, each in examined.findings if each.code != "address"] == [
        ("hang", Level.WRONG),
        ("refused", Level.WARNING),
        ("confused", Level.WARNING),
        ("broken", Level.WRONG),
        ("well", Level.OK),
    ]
