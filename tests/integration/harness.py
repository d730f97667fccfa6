"""The system under test as its users have it: commands in processes of their own, on a real broker.

Nothing here reaches into a worker.  What it does is seen in Kafka, in its log and its exit code, and in what
``dlq-stream status --json`` prints.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from aiokafka import ConsumerRecord, TopicPartition

from dlq_stream.cli.figures import read_figures
from dlq_stream.cli.status import as_object
from dlq_stream.core.headers import OWN_HEADERS
from dlq_stream.core.ids import message_id
from dlq_stream.core.model import Origin
from dlq_stream.settings import Settings
from dlq_stream.tables import messages
from dlq_stream.tables.marker import MARKER_KEY
from dlq_stream.tables.messages import Message
from tests.kafka_clients import (
    Outgoing,
    commit_offsets,
    committed_offsets,
    create_topics,
    list_topics,
    produce,
    read_topic,
)
from tests.kafka_fixture import LocalKafka, unique_name
from tests.promises import Crowd

T = TypeVar("T")

CLI = (sys.executable, "-m", "dlq_stream.cli")
FAUST = (sys.executable, "-m", "faust", "-A", "dlq_stream.worker.app", "worker")
PARTITIONS = 4
GROUP = "furnaces"

SECONDS_MAX = 30.0
"""How long anything may take before a test gives up on it: two cores are shared with brokers and other tests."""

STOP_SECONDS_MAX = 10.0
"""What SIGTERM may take, as promised."""

QUICK = {
    "DLQ_INITIAL_BACKOFF_SECONDS": "0.3",
    "DLQ_BACKOFF_MULTIPLIER": "2",
    "DLQ_MAX_BACKOFF_SECONDS": "2",
    "DLQ_OUTCOME_TIMEOUT_SECONDS": "300",
}
"""Retries within a second; outcomes are waited for longer than any test takes."""


async def eventually(
    look: Callable[[], Awaitable[T]], seconds: float = SECONDS_MAX, *, wanted: Callable[[T], object] = bool
) -> T:
    """Look again and again until what is seen is ``wanted``, and return it; a failure shows what was seen last."""
    deadline = time.monotonic() + seconds
    while True:
        seen = await look()
        if wanted(seen):
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s; last seen: {seen!r}")
        await asyncio.sleep(0.05)


def loaded_factor() -> float:
    """How much longer than promised things may take: 1 on a machine with cores to spare, more on a busy one."""
    return max(1.0, min(4.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def listeners_of(pid: int) -> set[tuple[str, int]]:
    """Address and port of every TCP socket on which a process listens (from /proc, so Linux only)."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            inodes.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                octets = bytes.fromhex(address)[::-1] if family == "tcp" else b""
                found.add((".".join(map(str, octets)) or address, int(port, 16)))
    return found


class Worker:
    """One worker process, which may be started again: same command, same data, a new log file."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        self.name = name
        self.command = list(command)
        self.environment = dict(environment)
        self.process: subprocess.Popen[bytes] | None = None
        self.crowd = Crowd()
        self._directory = directory
        self._log_files: list[Path] = []
        self._started = 0.0

    async def start(self, *, wait_ready: bool = True) -> Worker:
        """Start the process, by default until its partitions deliver."""
        self.close()
        self._log_files.append(self._directory / f"{self.name}.{len(self._log_files) + 1}.log")
        self._started = time.monotonic()
        with self._log_files[-1].open("wb") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if wait_ready:
            await self.ready()
        return self

    async def ready(self, seconds: float = SECONDS_MAX, times: int = 1) -> float:
        """Wait until the log of this start says that the partitions deliver; returns the seconds since the start.

        `crowd` then tells how busy the machine was.
        """
        self.crowd = Crowd()
        await self.said("ready: partitions", seconds, times=times)
        return time.monotonic() - self._started

    async def said(self, text: str, seconds: float = SECONDS_MAX, *, times: int = 1) -> None:
        """Wait until the log of this start holds ``text`` so many times."""
        deadline = time.monotonic() + seconds
        while self.log.count(text) < times:
            code = self.code
            if (code is not None and self.log.count(text) < times) or time.monotonic() > deadline:
                state = "runs" if code is None else f"ended with {code}"
                raise AssertionError(f"{self.name} ({state}) has not said {text!r}:\n{self.log[-6000:]}")
            self.crowd.look()
            await asyncio.sleep(0.02)

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self.process is not None
        return self.process.pid

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return None if self.process is None else self.process.poll()

    @property
    def log(self) -> str:
        """What was logged since the latest start."""
        return self._log_files[-1].read_text("utf-8", "replace") if self._log_files else ""

    @property
    def logs(self) -> str:
        """What was logged since the first start."""
        return "".join(path.read_text("utf-8", "replace") for path in self._log_files)

    async def ended(self, seconds: float = SECONDS_MAX) -> int:
        """Wait for the end and return the exit code."""

        async def code() -> int | None:
            return self.code

        found = await eventually(code, seconds, wanted=lambda seen: seen is not None)
        assert found is not None
        return found

    @property
    def data(self) -> Path:
        """Where its local state is."""
        return Path(self.environment["DLQ_DATA_DIR"])

    async def stop(self, signal_: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """SIGTERM or SIGINT; returns exit code and seconds."""
        began = time.monotonic()
        os.kill(self.pid, signal_)
        return await self.ended(STOP_SECONDS_MAX * loaded_factor()), time.monotonic() - began

    async def kill9(self) -> None:
        """End it as a machine does."""
        os.kill(self.pid, signal.SIGKILL)
        await self.ended()

    def close(self) -> None:
        """Make sure that nothing runs."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()


class App:
    """One app id on one broker, with its settings, workers and source topics."""

    def __init__(self, kafka: LocalKafka, directory: Path, **settings: object) -> None:
        self.kafka = kafka
        self.app_id = unique_name("app")
        self.directory = directory
        self.workers: list[Worker] = []
        given = {f"DLQ_{name.upper()}": str(value) for name, value in settings.items()}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DLQ_")}
        self.environment = (
            clean
            | QUICK
            | {
                "DLQ_BROKERS": kafka.bootstrap,
                "DLQ_APP_ID": self.app_id,
                "DLQ_PARTITIONS": str(PARTITIONS),
                "DLQ_WEB_PORT": "0",
                "PYTHONUNBUFFERED": "1",
            }
            | given
        )

    @property
    def bootstrap(self) -> str:
        """Where the broker is."""
        return self.kafka.bootstrap

    def topic(self, name: str) -> str:
        """One of the app's own topics."""
        return f"{self.app_id}-{name}"

    # --- commands and processes ---------------------------------------------------------------------------------

    async def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One of our commands, to its end."""
        return await asyncio.to_thread(
            subprocess.run, [*CLI, *arguments], capture_output=True, text=True, timeout=60, env=self.environment
        )

    async def init(self, *sources: str) -> App:
        """``dlq-stream init``."""
        done = await self.run("init", *(["--source", *sources] if sources else []))
        assert done.returncode == 0, done.stderr
        return self

    def worker(self, *options: str, command: Sequence[str] | None = None, data: str | None = None) -> Worker:
        """A worker with a data directory of its own (or the one named ``data``), not started yet."""
        name = f"worker-{len(self.workers) + 1}"
        environment = self.environment | {"DLQ_DATA_DIR": str(self.directory / (data or name))}
        worker = Worker(name, command or [*CLI, "worker", *options], environment, self.directory)
        self.workers.append(worker)
        return worker

    async def __aenter__(self) -> App:
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.close()

    # --- what Kafka holds ---------------------------------------------------------------------------------------

    async def source(self, *, partitions: int = 3, suffix: str = "", **config: object) -> str:
        """A new source topic, stamped by the broker's clock."""
        topic = unique_name("heat") + suffix
        named = {"message.timestamp.type": "LogAppendTime"} | {k.replace("_", "."): v for k, v in config.items()}
        await create_topics(self.bootstrap, topic, partitions=partitions, config=named)
        return topic

    async def produced(self, *records: Outgoing) -> list[ConsumerRecord]:
        """Write records and read them back as their consumer has them."""
        written = await produce(self.bootstrap, records)
        places = [(each.topic, each.partition, each.offset) for each in written]
        found: dict[tuple[str, int, int], ConsumerRecord] = {}
        for topic in {each.topic for each in written}:
            found |= {
                (each.topic, each.partition, each.offset): each for each in await read_topic(self.bootstrap, topic)
            }
        return [found[place] for place in places]

    async def send(self, *events: Outgoing) -> list[Any]:
        """Write failure events or commands."""
        return await produce(self.bootstrap, events)

    async def read(self, topic: str) -> list[ConsumerRecord]:
        """All committed records of a topic; none where there is no such topic."""
        if topic not in await list_topics(self.bootstrap):
            return []
        return await read_topic(self.bootstrap, topic)

    async def until(self, topic: str, count: int, seconds: float = SECONDS_MAX) -> list[ConsumerRecord]:
        """Wait until the topic holds so many records; more are a failure at once."""
        records = await eventually(lambda: self.read(topic), seconds, wanted=lambda found: len(found) >= count)
        assert len(records) == count, [(each.partition, each.offset, each.key, each.headers) for each in records]
        return records

    async def status(self) -> dict[str, Any]:
        """What ``dlq-stream status --json`` prints, without a process for each look."""
        return as_object(await read_figures(Settings(brokers=self.bootstrap, app_id=self.app_id)))

    async def figures(self, queue: str, **wanted: int) -> dict[str, Any]:
        """Wait until ``status`` shows these figures for a queue (gauges, totals, or ignored by reason)."""

        async def look() -> dict[str, Any]:
            queues = {row["queue"]: row for row in (await self.status())["queues"]}
            row = queues.get(queue, {"totals": {}, "ignored": {}})
            gauges = {name: value for name, value in row.items() if name not in ("totals", "ignored")}
            return {**row["ignored"], **{f"total_{n}": v for n, v in row["totals"].items()}, **gauges}

        return await eventually(look, wanted=lambda seen: wanted.items() <= seen.items())

    async def rows(self) -> dict[str, Message]:
        """The table of messages by message id, as its changelog has it."""
        latest = {each.key: each.value for each in await self.read(self.topic("messages-changelog"))}
        latest.pop(MARKER_KEY, None)
        return {key.hex(): messages.codec.decode(value) for key, value in latest.items() if value is not None}

    async def row(self, id_: str, **wanted: object) -> Message:
        """Wait until a message's row has these fields."""

        async def look() -> Message | None:
            return (await self.rows()).get(id_)

        found = await eventually(
            look, wanted=lambda row: row is not None and all(getattr(row, n) == v for n, v in wanted.items())
        )
        assert found is not None
        return found

    async def processed(self) -> None:
        """Wait until the workers have taken in everything that was sent to them."""

        async def lag() -> dict[str, int]:
            told: dict[str, int] = (await self.status())["lag"]
            return told

        await eventually(lag, wanted=lambda seen: not any(seen.values()))

    async def rewind(self) -> None:
        """Reset the group to the beginning of its topics, as `kafka-consumer-groups --reset-offsets` does."""
        places = {
            TopicPartition(self.topic(name), number): 0
            for name in ("failures", "commands")
            for number in range(PARTITIONS)
        }
        await commit_offsets(self.bootstrap, self.app_id, places)
        committed = await committed_offsets(self.bootstrap, self.app_id)
        assert all(committed[place] == 0 for place in places)

    # --- what agents and operators send -------------------------------------------------------------------------

    def failure(self, record: ConsumerRecord, **own: object) -> Outgoing:
        """What an agent of `GROUP` that failed on ``record`` reports; ``error_type="X"`` is ``dlq-error-type: X``.

        None leaves a header out.  A retry's own headers are carried on, as the contract asks.
        """
        came = {name: value for name, value in record.headers if name in OWN_HEADERS}
        user = [(name, value) for name, value in record.headers if name not in OWN_HEADERS]
        if "dlq-message-id" not in came:
            came |= {
                "dlq-message-id": id_of(record).encode(),
                "dlq-original-topic": record.topic.encode(),
                "dlq-original-partition": b"%d" % record.partition,
                "dlq-original-offset": b"%d" % record.offset,
                "dlq-original-timestamp": b"%d" % record.timestamp,
            }
        came |= {"dlq-original-key": record.key, "dlq-group": GROUP.encode(), "dlq-error-type": b"TimeoutError"}
        given = {f"dlq-{name.replace('_', '-')}": _encoded(value) for name, value in own.items()}
        ours = [(name, value) for name, value in (came | given).items() if name not in given or value is not None]
        key = dict(ours).get("dlq-message-id")
        return Outgoing(self.topic("failures"), record.value, key, [*user, *ours])

    def command(self, kind: str, id_: str, **fields: object) -> Outgoing:
        """A command as JSON, keyed by message id."""
        value = json.dumps({"type": kind, "message_id": id_, **fields}).encode()
        return Outgoing(self.topic("commands"), value, id_.encode())


def _encoded(value: object) -> bytes | None:
    return value if isinstance(value, bytes) or value is None else str(value).encode()


def id_of(record: ConsumerRecord, group: str = GROUP) -> str:
    """The message that a record belongs to: named in its headers, or derived from its coordinates."""
    named = own(record).get("dlq-message-id")
    if named is not None:
        return named.decode()
    return message_id(group, Origin(record.topic, record.partition, record.offset, record.timestamp)).hex()


def own(record: ConsumerRecord) -> dict[str, Any]:
    """The ``dlq-*`` headers of a record, each of which may be there only once."""
    found = [(name, value) for name, value in record.headers if name in OWN_HEADERS]
    assert len(dict(found)) == len(found), f"a header of ours is repeated: {found}"
    return dict(found)


def users(record: ConsumerRecord) -> list[tuple[str, bytes | None]]:
    """The other headers, in order."""
    return [(name, value) for name, value in record.headers if name not in OWN_HEADERS]


def by_id(records: Iterable[ConsumerRecord]) -> dict[str, list[ConsumerRecord]]:
    """Records by the message that they belong to."""
    found: dict[str, list[ConsumerRecord]] = {}
    for record in records:
        found.setdefault(id_of(record), []).append(record)
    return found


def attempt_of(record: ConsumerRecord) -> int:
    """Which delivery a record is; 0 for the original."""
    return int(own(record).get("dlq-attempt", b"0"))
