"""The launcher as a person uses it: what it prints, its exit codes, and what it leaves on the disk."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiokafka.errors import UnknownTopicOrPartitionError

from dlq_stream.settings import load
from tests.kafka_clients import Outgoing, create_topics, list_topics, produce, read_topic
from tests.kafka_fixture import LAUNCHER, launcher

HEAP = ("--heap", "384m")


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A data directory to be; whatever runs in it ends with the test."""
    directory = tmp_path / "instance"
    yield directory
    launcher("wipe", "--data-dir", str(directory))


def start(data: Path, *options: str) -> str:
    """Start, and return the address that was printed."""
    said = launcher("start", "--data-dir", str(data), *HEAP, *options)
    assert said.returncode == 0, said.stderr
    (line,) = said.stdout.splitlines()
    version, address, where = line.removeprefix("Kafka ").partition(" listens on ")[0], line.split()[4], str(data)
    users = f"; security mtls, users in {data}/security" if (data / "security").exists() else ""
    assert line == f"Kafka {version} listens on {address} (data {where}{users})"
    assert address.startswith("127.0.0.1:")
    return address


def pid_of(data: Path) -> int:
    """The broker's process."""
    return int((data / "kafka.pid").read_text())


@pytest.mark.kafka
async def test_a_life(data: Path) -> None:
    """Start, start again, crash, start, stop, start: one address, the records stay; and wipe leaves nothing."""
    stopped = launcher("status", "--data-dir", str(data))
    assert (stopped.returncode, stopped.stdout) == (3, f"Kafka is stopped (data {data})\n")

    address = start(data, "--port", "0")
    first = pid_of(data)
    assert start(data, "--port", "0") == address
    assert pid_of(data) == first
    running = launcher("status", "--data-dir", str(data))
    assert running.returncode == 0
    assert f"listens on {address}" in running.stdout
    await create_topics(address, "kept", partitions=1)
    await produce(address, [Outgoing("kept", b"1")])

    os.kill(first, signal.SIGKILL)
    crashed = launcher("status", "--data-dir", str(data))
    assert crashed.returncode == 3
    assert "crashed or was killed" in crashed.stdout
    assert start(data) == address
    assert pid_of(data) != first

    assert launcher("stop", "--data-dir", str(data)).returncode == 0
    assert launcher("stop", "--data-dir", str(data)).stdout == f"Kafka is stopped (data {data})\n"
    assert start(data) == address
    assert [record.value for record in await read_topic(address, "kept")] == [b"1"]

    wiped = launcher("wipe", "--data-dir", str(data))
    assert (wiped.returncode, data.exists()) == (0, False)
    assert launcher("wipe", "--data-dir", str(data)).returncode == 0


@pytest.mark.kafka
async def test_two_at_a_time(data: Path, tmp_path: Path) -> None:
    """Started at the same moment they find ports of their own, and wiping one leaves the other alone."""
    other = tmp_path / "other"
    try:
        with ThreadPoolExecutor(2) as pool:
            one, two = pool.map(lambda directory: start(directory, "--port", "0"), (data, other))
        assert one != two
        await create_topics(one, "mine", partitions=1)
        assert "mine" not in await list_topics(two)
        launcher("wipe", "--data-dir", str(data))
        assert launcher("status", "--data-dir", str(other)).returncode == 0
    finally:
        launcher("wipe", "--data-dir", str(other))


@pytest.mark.kafka
async def test_topics_appear_only_where_they_may(data: Path) -> None:
    """The switch for automatic topics and extra properties hold, for the next starts too, until they are changed."""
    address = start(data, "--port", "0", "--auto-create-topics", "--set", "num.partitions=3")
    assert await touch(address, "automatic") == 3
    changed = launcher("start", "--data-dir", str(data), "--no-auto-create-topics")
    assert changed.returncode == 1
    assert "with other options: stop it first" in changed.stderr
    launcher("stop", "--data-dir", str(data))
    assert start(data, "--no-auto-create-topics") == address
    with pytest.raises(UnknownTopicOrPartitionError):
        await touch(address, "another")
    assert json.loads((data / "launcher.json").read_text())["set"] == {"num.partitions": "3"}


async def touch(address: str, topic: str) -> int:
    """Ask for a topic as a client does that lets the broker create it; the number of its partitions."""
    from aiokafka.client import AIOKafkaClient
    from aiokafka.errors import for_code
    from aiokafka.protocol.metadata import MetadataRequest

    client = AIOKafkaClient(bootstrap_servers=address)
    await client.bootstrap()
    try:
        deadline = time.monotonic() + 3
        while True:
            answer = await client.send(client.get_random_node(), MetadataRequest([topic]))
            ((code, _, _, partitions),) = answer.topics
            if not code:
                return len(partitions)
            if time.monotonic() > deadline or not for_code(code).retriable:
                raise for_code(code)(topic)
            await asyncio.sleep(0.1)
    finally:
        await client.close()


@pytest.mark.kafka
async def test_secured(data: Path) -> None:
    """Users are made once, with what they need; Kafka's own tools are let in, too, and a restart changes nothing."""
    address = start(data, "--port", "0", "--security", "mtls", "--user", "ann")
    own = data / "security"
    assert {path.name for path in own.iterdir() if path.name.startswith(("ann", "admin"))} == {
        f"{user}.{kind}" for user in ("ann", "admin") for kind in ("pem", "toml", "properties")
    }
    assert {path.stat().st_mode & 0o077 for path in own.iterdir()} == {0}
    ann, admin = (load({"config": own / f"{user}.toml"}).connection for user in ("ann", "admin"))
    await create_topics(admin, "kept", partitions=1)
    assert await list_topics(ann) == {}

    classes = Path(f"/proc/{pid_of(data)}/cmdline").read_text().split("\0")[2]
    tool = ["java", "-XX:TieredStopAtLevel=1", "-cp", classes, "org.apache.kafka.tools.AclCommand"]
    broker = ["--bootstrap-server", address, "--command-config", str(own / "admin.properties")]
    right = ["--allow-principal", "User:ann", "--operation", "Read", "--topic", "ke"]
    said = subprocess.run(
        [*tool, *broker, "--add", *right, "--resource-pattern-type", "prefixed"],
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stdout + said.stderr

    os.kill(pid_of(data), signal.SIGKILL)
    assert start(data) == address
    assert await list_topics(ann) == {"kept": 1}
    for other in (("--user", "bob"), ("--security", "none")):
        refused = launcher("start", "--data-dir", str(data), *other)
        assert refused.returncode == 1
        assert "are set when it is made: wipe it, or choose another --data-dir" in refused.stderr


@pytest.mark.kafka
def test_a_broker_that_ends_while_it_starts(data: Path) -> None:
    """The reason is on the screen, the exit code is 1, and the options that failed are not remembered."""
    failed = launcher("start", "--data-dir", str(data), "--port", "0", "--set", "log.dirs=/proc/none")
    assert failed.returncode == 1
    assert "kafka: " in failed.stderr
    assert "/proc/none" in failed.stderr
    assert len(failed.stderr.splitlines()) < 20
    assert launcher("status", "--data-dir", str(data)).returncode == 3
    start(data, "--port", "0")


@pytest.mark.kafka
def test_a_port_in_use(data: Path) -> None:
    """Somebody else's port is named, at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        refused = launcher("start", "--data-dir", str(data), "--port", str(port))
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"kafka: port {port} of 127.0.0.1 is in use")


@pytest.mark.kafka
def test_a_stopped_process_does_not_answer(data: Path) -> None:
    """An open port is not enough for `status`, and `stop` ends even a broker that hangs."""
    start(data, "--port", "0")
    os.kill(pid_of(data), signal.SIGSTOP)
    hanging = launcher("status", "--data-dir", str(data))
    assert hanging.returncode == 1
    assert "does not answer" in hanging.stdout
    killed = launcher("stop", "--data-dir", str(data), "--wait-seconds", "1")
    assert killed.returncode == 0
    assert "was killed" in killed.stdout


def test_what_was_not_made_here_stays(tmp_path: Path) -> None:
    """Neither start nor wipe touches a directory that lacks the launcher's marker."""
    precious = tmp_path / "precious"
    precious.write_text("data")
    for command in ("start", "wipe", "status"):
        refused = launcher(command, "--data-dir", str(tmp_path))
        assert refused.returncode == 1
        assert "was not made by this launcher" in refused.stderr
    assert precious.read_text() == "data"
    assert list(tmp_path.iterdir()) == [precious]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """Without Java and Maven: a line for each, with the fix, and exit code 2."""
    for command in (["check"], ["start", "--data-dir", str(tmp_path / "data")]):
        said = launcher(*command, environment={"PATH": str(tmp_path), "HOME": str(tmp_path)})
        assert said.returncode == 2
        java, maven = said.stderr.splitlines()
        assert java.startswith("kafka: java >= 17 is missing: install ")
        assert maven.startswith("kafka: mvn is missing: install ")


def test_an_old_java_is_named(tmp_path: Path) -> None:
    """A Java that is too old is missing, too; and the path may hold several: JAVA_HOME decides."""
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_402\"' >&2\n")
    java.chmod(0o755)
    said = launcher("check", environment={"PATH": os.environ["PATH"], "JAVA_HOME": str(tmp_path)})
    assert said.returncode == 2
    assert "java >= 17 is missing, this is 8" in said.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sing"],
        ["start", "--port", "70000"],
        ["start", "--port", "x"],
        ["start", "--set", "novalue"],
        ["start", "--user", "Ann"],
        ["start", "--user", "kafka"],
        ["start", "--security", "tls"],
    ],
)
def test_usage(arguments: list[str]) -> None:
    """Wrong usage exits with 2 and says how it goes."""
    said = launcher(*arguments)
    assert said.returncode == 2
    assert "usage: kafka" in said.stderr


def test_the_script_needs_no_environment(tmp_path: Path) -> None:
    """It runs by itself, isolated from every installed package."""
    command = [sys.executable, "-I", "-S", str(LAUNCHER), "status", "--data-dir", str(tmp_path / "none")]
    assert subprocess.run(command, capture_output=True).returncode == 3
