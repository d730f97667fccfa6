"""Real brokers for tests, by the launcher that people use, too.

`kafka` is one broker for the whole session: use topics, groups and app ids of your own (`unique_name`).
`kafka_factory` makes brokers for one test, to be configured, stopped and killed; port and data outlive a restart:

    broker = kafka_factory(auto_create=True, message_max_bytes=200_000)

For another scope, `with local_kafka(...) as broker:` in a fixture of your own. All of them block for seconds when they
start or stop a broker: inside a test that shares its loop with clients, say `await asyncio.to_thread(broker.stop)`.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dlq_stream.core.connection import Connection
from dlq_stream.settings import load

LAUNCHER = Path(__file__).resolve().parents[1] / "deploy" / "kafka" / "kafka"
HEAP = "512m"


def unique_name(prefix: str) -> str:
    """A name for a topic, a group or an app that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:10]}"


def launcher(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the launcher to its end and return what it said."""
    command = [sys.executable, str(LAUNCHER), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)


@functools.cache
def missing_prerequisites() -> str:
    """What the launcher lacks on this machine, on one line; empty when a broker can be started."""
    said = launcher("check")
    return " ".join(said.stderr.split()).replace("kafka: ", "") if said.returncode else ""


@dataclass
class LocalKafka:
    """One broker process and its data directory."""

    data: Path
    options: list[str] = field(default_factory=list)
    bootstrap: str = ""

    def start(self) -> None:
        """Start it, or start it again: on the port and the data it had."""
        said = launcher("start", "--data-dir", str(self.data), *self.options)
        found = re.search(r"listens on (\S+)", said.stdout)
        if said.returncode or found is None:
            raise RuntimeError(f"no broker for the tests: {said.stderr}")
        self.bootstrap = found.group(1)

    def stop(self) -> None:
        """End it as an operator would."""
        said = launcher("stop", "--data-dir", str(self.data))
        if said.returncode:
            raise RuntimeError(said.stderr)

    def kill(self) -> None:
        """End it as the kernel's out-of-memory killer would."""
        self._signal(signal.SIGKILL)

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def wipe(self) -> None:
        """End it and delete its data."""
        with suppress(FileNotFoundError, ProcessLookupError):
            self.kill()
        launcher("wipe", "--data-dir", str(self.data))
        shutil.rmtree(self.data, ignore_errors=True)

    def settings_of(self, user: str) -> Path:
        """The settings file with which a user of a secured broker is let in."""
        return self.data / "security" / f"{user}.toml"

    def connection(self, user: str = "admin") -> Connection:
        """The same as a connection."""
        return load({"config": self.settings_of(user)}).connection

    @property
    def log(self) -> str:
        """What the broker has logged."""
        return (self.data / "kafka.log").read_text("utf-8", "replace")

    def _signal(self, number: signal.Signals) -> None:
        os.kill(int((self.data / "kafka.pid").read_text()), number)


@contextmanager
def local_kafka(
    *,
    auto_create: bool = False,
    authorizer: bool = False,
    security: str = "none",
    users: Sequence[str] = (),
    **properties: object,
) -> Iterator[LocalKafka]:
    """A broker of its own, running; ended and deleted afterwards.

    `properties` are the broker's, with `_` for `.`: `message_max_bytes=200_000`. With `authorizer`, ACLs count
    (`tests.kafka_clients.forbid_writing`). With `security`, ``sasl`` or ``mtls``, clients prove that they are `admin`
    or one of the `users`, and ACLs count.
    """
    options = ["--port", "0", "--heap", HEAP]
    options += ["--auto-create-topics"] if auto_create else []
    options += ["--authorizer"] if authorizer else []
    options += ["--security", security] if security != "none" else []
    for user in users:
        options += ["--user", user]
    for name, value in properties.items():
        options += ["--set", f"{name.replace('_', '.')}={value}"]
    broker = LocalKafka(Path(tempfile.mkdtemp(prefix="dlq-kafka-")), options)
    try:
        broker.start()
        yield broker
    finally:
        broker.wipe()


KafkaFactory = Callable[..., LocalKafka]


@pytest.fixture(scope="session")
def kafka() -> Iterator[LocalKafka]:
    """The session's broker: no automatic topics, everything allowed. Do not stop it."""
    with local_kafka() as broker:
        yield broker


@pytest.fixture
def kafka_factory() -> Iterator[KafkaFactory]:
    """Makes brokers for this test alone: `kafka_factory(auto_create=False, authorizer=False, **properties)`."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(local_kafka(**options))
