"""The whole loop on brokers that let in only whom they know, each role with a user of its own and the rights it needs.

The rights are those that ``dlq-stream init --print-acls`` lists, and no others: whatever else were needed would fail.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dlq_stream.client import FailureReporter, Permanent, RetryConsumer
from dlq_stream.client.delivery import delivery_of
from dlq_stream.core.connection import Security, connection_to
from dlq_stream.core.errors import ConfigurationError, NotAllowed
from dlq_stream.core.model import Record
from dlq_stream.kafka import admin_client, wait_for_brokers
from dlq_stream.settings import load
from dlq_stream.topics.acls import AGENT_GROUP, ROLES, Right, rights_of
from tests.core.received import Received
from tests.integration import tokens
from tests.integration.acls import allow
from tests.integration.harness import GROUP, App, Worker, eventually, id_of
from tests.integration.test_exit_codes import last_words
from tests.kafka_clients import Outgoing, create_topics, produce, read_topic
from tests.kafka_fixture import LocalKafka, local_kafka, unique_name

Handler = Callable[[Record], Awaitable[None]]

USERS = [f"dlq-{role}" for role in ROLES]

OAUTHBEARER = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
TOKENS_TOO = {
    "listener_name_clients_sasl_enabled_mechanisms": "SCRAM-SHA-512,OAUTHBEARER",
    "listener_name_clients_oauthbearer_sasl_jaas_config": f'{OAUTHBEARER} required unsecuredLoginStringClaim_sub="k";',
}
"""Who is let in by password is let in by token as well, which Kafka believes unsigned where it is not told better."""


@pytest.fixture(scope="module")
def broker_of() -> Iterator[Callable[[str], LocalKafka]]:
    """A broker for each way to prove who one is, once it is asked for."""
    with ExitStack() as stack:
        yield cache(lambda security: stack.enter_context(local_kafka(security=security, users=USERS, **TOKENS_TOO)))


@pytest.fixture(params=["sasl", "mtls"])
def secured(request: pytest.FixtureRequest, broker_of: Callable[[str], LocalKafka]) -> LocalKafka:
    """Each of the two."""
    return broker_of(request.param)


@pytest.fixture
def by_password(broker_of: Callable[[str], LocalKafka]) -> LocalKafka:
    """One of them, for what does not depend on the way."""
    return broker_of("sasl")


class Secured(App):
    """An app whose commands are run by the users of their roles."""

    def __init__(self, kafka: LocalKafka, directory: Path) -> None:
        super().__init__(kafka, directory, config=kafka.settings_of("dlq-worker"))
        self.admin = kafka.connection()

    async def run_as(self, role: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of ours, to its end, as the user of a role."""
        self.environment["DLQ_CONFIG"] = str(self.kafka.settings_of(f"dlq-{role}"))
        try:
            return await self.run(*arguments)
        finally:
            self.environment["DLQ_CONFIG"] = str(self.kafka.settings_of("dlq-worker"))

    async def numbers(self) -> dict[str, Any]:
        """The totals that an operator sees."""
        said = await self.run_as("operator", "status", "--json")
        assert said.returncode == 0, said.stderr
        found: dict[str, Any] = json.loads(said.stdout)["total"]
        return found

    def rights(self, *sources: str) -> list[Right]:
        """All that is listed, for the agents' group of the tests."""
        listed = rights_of(load({"app_id": self.app_id}), sources)
        return [replace(right, name=GROUP) if right.name == AGENT_GROUP else right for right in listed]


@asynccontextmanager
async def agent(kafka: LocalKafka, topic: str, app_id: str, handler: Handler) -> AsyncIterator[None]:
    """An agent with the SDK's consumer, as its own user."""
    connection = kafka.connection("dlq-agent")
    consumer = RetryConsumer(topic, GROUP, handler, connection, app_id=app_id, traffic_seconds=0.5)
    running = asyncio.create_task(consumer.run())
    try:
        yield
    finally:
        consumer.stop()
        await running


async def new_source(app: Secured) -> str:
    """A topic of somebody else's, made by the administrator."""
    topic = unique_name("heat")
    await create_topics(app.admin, topic, partitions=2, config={"message.timestamp.type": "LogAppendTime"})
    return topic


async def test_the_whole_loop(secured: LocalKafka, tmp_path: Path) -> None:
    """Init, a failure that succeeds at its retry, one that is given up, and what the operator is told of both."""
    async with Secured(secured, tmp_path) as app:
        source = await new_source(app)
        await allow(app.admin, app.rights(source))
        done = await app.run_as("init", "init", "--source", source)
        assert done.returncode == 0, done.stderr
        assert f"source    {source}: 2 partitions" in done.stdout
        await app.worker().start()
        await produce(app.admin, [Outgoing(source, b"later", partition=0), Outgoing(source, b"never", partition=1)])

        async def handle(record: Record) -> None:
            if record.value == b"never":
                raise Permanent("no furnace of ours")
            if delivery_of(record, GROUP) is None:
                raise TimeoutError("furnace")

        async with agent(secured, source, app.app_id, handle):
            seen = await eventually(app.numbers, wanted=lambda told: told["resolved"] == told["escalated"] == 1)
        assert (seen["unwritten"], seen["totals"]["succeeded"]) == (0, 1)
        assert [record.value for record in await read_topic(app.admin, f"{source}-dlq")] == [b"never"]
        await produce(app.admin, [Outgoing(app.topic("failures"), b"poison", partition=0)])
        await eventually(lambda: read_topic(app.admin, app.topic("quarantine")))
        given_up = id_of((await read_topic(app.admin, f"{source}-dlq"))[0])
        for lever in (
            ("list", "--status", "escalated"),
            ("show", given_up),
            ("resolve", given_up),
            ("policy", "set", source, "--max-retries", "5"),
            ("quarantine", "list"),
            ("quarantine", "retry", "--all", "--yes"),
        ):
            pulled = await app.run_as("operator", *lever)
            assert "not allowed" not in pulled.stderr, (lever, pulled)
            assert pulled.returncode == (1 if "retry" in lever else 0), (lever, pulled)  # it is poison for ever
        examined = await app.run_as("operator", "doctor", "--source", source)
        assert "not allowed" not in examined.stdout + examined.stderr
        assert examined.returncode == 0, examined.stdout
        assert (await app.workers[0].stop())[0] == 0


async def told_at_once(kafka: LocalKafka, security: Security) -> str:
    """Why a broker that is there does not let one in; nobody waits for that."""
    with pytest.raises(ConfigurationError) as caught:
        async with asyncio.timeout(10):
            await wait_for_brokers(connection_to(kafka.bootstrap, security), 60)
    return str(caught.value).removeprefix(f"{kafka.bootstrap}: ")


async def test_who_is_not_let_in_by_password_is_told_at_once(by_password: LocalKafka) -> None:
    """Wrong password, mechanism, protocol or authority: not that no broker answered, after a minute."""
    right = by_password.connection("dlq-agent").security
    for wrong, said in (
        (
            replace(right, password="wrong"),
            "authentication failed: the broker does not accept user 'dlq-agent' with SCRAM",
        ),
        (
            replace(right, mechanism="PLAIN"),
            "authentication failed: the broker does not take PLAIN: set sasl_mechanism",
        ),
        (replace(right, cafile=None), "TLS handshake failed: the broker's certificate is not accepted: self-signed"),
        (Security("SSL", cafile=right.cafile), "this listener wants SASL, security_protocol is SSL: set"),
        (Security(), "this listener speaks TLS, security_protocol is PLAINTEXT: set security_protocol"),
    ):
        assert (await told_at_once(by_password, wrong)).startswith(said)
    with pytest.raises(ConfigurationError, match="authentication failed"):
        async with admin_client(connection_to(by_password.bootstrap, replace(right, password="wrong"))):
            pass


async def test_who_is_not_let_in_by_certificate_is_told_at_once(
    broker_of: Callable[[str], LocalKafka], kafka: LocalKafka
) -> None:
    """No certificate, one of another authority's, or a broker that asks for none and speaks no TLS."""
    by_certificate, other = broker_of("mtls"), broker_of("sasl")
    right = by_certificate.connection("dlq-agent").security
    assert "wants a client certificate" in await told_at_once(by_certificate, replace(right, certfile=None))
    stranger = other.data / "security" / "kafka.pem"
    assert "wants a client certificate" in await told_at_once(by_certificate, replace(right, certfile=stranger))
    assert (await told_at_once(kafka, right)).startswith("this listener does not speak TLS, security_protocol is SSL")


async def test_by_token(by_password: LocalKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker and an agent whose tokens come from a provider named by import path; a token of nobody's is refused."""
    async with Secured(by_password, tmp_path) as app:
        rights = app.rights()
        await allow(app.admin, rights)
        assert (await app.run_as("init", "init")).returncode == 0
        settings = load(
            {
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "OAUTHBEARER",
                "ssl_cafile": by_password.data / "security" / "ca.pem",
                "sasl_token_provider": f"{tokens.__name__}:Provider",
            }
        )
        by_token = replace(settings.connection.security, token_provider=f"{tokens.__name__}:later")
        worker = app.worker()
        del worker.environment["DLQ_CONFIG"]
        worker.environment |= settings.security_variables() | {tokens.USER: "dlq-worker"}
        await worker.start()
        monkeypatch.setenv(tokens.USER, "dlq-agent")
        async with FailureReporter(by_password.bootstrap, GROUP, app_id=app.app_id, security=by_token) as reporter:
            await reporter.report(Received("heat"), TimeoutError("furnace"), category="permanent")
        seen = await eventually(app.numbers, wanted=lambda told: told["escalated"])
        assert seen["totals"]["failures"] == 1
        monkeypatch.setattr(tokens, "LIFE_SECONDS", -30)
        assert (await told_at_once(by_password, by_token)).startswith(
            f"authentication failed: the broker does not accept the token of {tokens.__name__}:later with OAUTHBEARER"
        )


async def test_a_worker_names_each_right_that_it_lacks(by_password: LocalKafka, tmp_path: Path) -> None:
    """Group, transactional id and topic, one after the other as they are granted: the line says what, and code 2."""
    async with Secured(by_password, tmp_path) as app:
        rights = app.rights()
        await allow(app.admin, [right for right in rights if right.role == "init"])
        done = await app.run_as("init", "init")
        assert done.returncode == 0, done.stderr
        worker = app.worker()
        assert (await refused(worker)).startswith(f"not allowed: Describe on topic {app.topic('attempts-changelog')}, ")
        own, *others = [right for right in rights if right.role == "worker" and app.app_id in right.name]
        await allow(app.admin, [replace(own, operations=("Read", "DescribeConfigs"))])
        assert await refused(worker) == f"not allowed: Read on group {app.app_id}"
        group, transactions = others
        await allow(app.admin, [group])
        assert (await refused(worker)).startswith(f"not allowed: Write on transactional id {app.app_id}-p")
        await allow(app.admin, [transactions])
        await worker.start()
        await produce(app.admin, [Outgoing(app.topic("failures"), b"poison", partition=0)])
        assert await worker.ended() == 2, worker.log
        assert f"not allowed: Write on topic {app.app_id}-" in last_words(worker)
        await allow(app.admin, [own])
        await worker.start()
        assert await eventually(lambda: read_topic(app.admin, app.topic("quarantine")))


async def refused(worker: Worker) -> str:
    """What a worker says that ends with code 2 before it is ready, up to the fix."""
    await worker.start(wait_ready=False)
    assert await worker.ended() == 2, worker.log
    said = [line for line in worker.log.splitlines() if "not allowed" in line][-1]
    assert "Traceback" not in worker.log
    return said[said.index("not allowed") :].partition(";")[0]


async def test_commands_and_agents_name_the_right_that_they_lack(by_password: LocalKafka, tmp_path: Path) -> None:
    """Each with code 2, or with the error that says so."""
    async with Secured(by_password, tmp_path) as app:
        rights = {role: [right for right in app.rights() if right.role == role] for role in ROLES}
        own, transaction, *_ = rights["init"]
        lacking = replace(own, operations=("Read", "DescribeConfigs"))
        await allow(app.admin, [lacking])
        init = ("init", "init", "--replication-factor", "1")
        assert f"not allowed: Create on topic {app.topic('attempts-changelog')}, " in (await denied(app, *init))
        await allow(app.admin, [replace(own, operations=("Create",))])
        assert f"not allowed: Write on transactional id {app.app_id}-init" in (await denied(app, *init))
        await allow(app.admin, [transaction])
        assert f"not allowed: Write on topic {app.topic('')}" in (await denied(app, *init))
        await allow(app.admin, [own])
        assert (await app.run_as(*init)).returncode == 0

        reading, *_ = rights["operator"]
        (group,) = (right for right in rights["operator"] if right.kind == "group")
        assert f"not allowed: Describe on topic {app.topic('')}" in (await denied(app, "operator", "status"))
        await allow(app.admin, [replace(reading, operations=("Describe",))])
        assert f"not allowed: Read on topic {app.topic('stats-changelog')}" in (await denied(app, "operator", "status"))
        await allow(app.admin, [reading])
        assert f"not allowed: Describe on group {app.app_id}" in (await denied(app, "operator", "status"))
        await allow(app.admin, [group])
        assert (await app.run_as("operator", "status")).returncode == 0

        connection = by_password.connection("dlq-agent")
        with pytest.raises(NotAllowed, match=f"not allowed: Write on topic {app.topic('failures')}"):
            await FailureReporter(connection, GROUP, app_id=app.app_id).start()

        async def handle(record: Record) -> None:
            raise AssertionError("nothing is to be read")

        source = await new_source(app)
        stranger = RetryConsumer(source, "strangers", handle, connection, app_id=app.app_id)
        await allow(app.admin, [right for right in rights["agent"] if app.app_id in right.name])
        with pytest.raises(NotAllowed, match=f"not allowed: Read on topic {source}"):
            await asyncio.wait_for(stranger.run(), 30)
        await allow(app.admin, [Right("agent", ("Read",), "topic", source)])
        with pytest.raises(NotAllowed, match="not allowed: Read on group strangers"):
            await asyncio.wait_for(stranger.run(), 30)


async def denied(app: Secured, role: str, *arguments: str) -> str:
    """What a command says that ends with code 2."""
    done = await app.run_as(role, *arguments)
    assert done.returncode == 2, done
    return done.stderr
