"""The example of an adapter's docstring as a program of its own, on a real broker."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from dlq_stream.core import headers as names
from tests.kafka_clients import Header, Outgoing, committed_offsets, create_topics, produce
from tests.kafka_fixture import unique_name

ROOT = Path(__file__).resolve().parents[2]
REPORT_SECONDS = 2
WAIT_SECONDS_MAX = 40.0

BEFORE = """
import os

def bake(reading):
    os.write(1, f"bake {reading['n']}\\n".encode())  # not print: Faust makes log lines of that
    if reading["n"] == 1:
        raise TimeoutError("no answer from the kiln")
"""

AFTER = {
    "confluent": "",
    "faststream": "import asyncio; asyncio.run(app.run())",
    "faust": """
import sys
sys.argv[1:] = ["worker", "--without-web", "-l", "info"]
app.main()
""",
}


@dataclass
class Example:
    """One adapter's example, with names of its own, and what it reads and writes."""

    adapter: str
    bootstrap: str
    app_id: str
    topic: str
    group: str
    process: subprocess.Popen[bytes] | None = None
    directory: Path = Path()

    def program(self) -> str:
        """The docstring's code with this test's names in the place of the example's."""
        text = importlib.import_module(f"dlq_stream.adapters.{self.adapter}").__doc__ or ""
        blocks = re.findall(r"(?:^(?:    .*)?\n)+", text, re.MULTILINE)
        code = textwrap.dedent(max(blocks, key=len))
        assert "FailureReporter(" in code
        code = re.sub(
            r'(FailureReporter\(.*group="heat-agents")',
            rf'\1, app_id="{self.app_id}", timeout_seconds={REPORT_SECONDS}',
            code,
        )
        for name, mine in (
            ("localhost:9092", self.bootstrap),
            ("heat-agents", self.group),
            ("heat-processing", self.topic),
        ):
            code = code.replace(name, mine)
        return f"{BEFORE}\n{code}\n{AFTER[self.adapter]}"

    def start(self, directory: Path, program: str | None = None) -> None:
        """Run it, or a variation of it."""
        self.directory = directory
        (directory / "agent.py").write_text(program or self.program())
        with (directory / "said").open("wb") as said, (directory / "logged").open("wb") as logged:
            self.process = subprocess.Popen(
                [sys.executable, str(directory / "agent.py")],
                stdout=said,
                stderr=logged,
                cwd=directory,  # Faust makes a directory for its data there
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def said(self) -> list[int]:
        """What was baked, in order."""
        lines = (self.directory / "said").read_text().splitlines()
        return [int(line.removeprefix("bake ")) for line in lines if line.startswith("bake ")]

    def logged(self) -> str:
        """What it logged, wherever its framework writes that."""
        return (self.directory / "logged").read_text() + (self.directory / "said").read_text()

    async def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """End it; returns its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return await asyncio.to_thread(self.process.wait, 30)
        finally:
            self.process.kill()

    async def committed(self) -> int:
        """The place that the group has committed."""
        return (await committed_offsets(self.bootstrap, self.group)).get(TopicPartition(self.topic, 0), 0)

    async def write(self, *values: bytes, headers: tuple[Header, ...] = ()) -> None:
        """Produce to the source topic."""
        await produce(self.bootstrap, [Outgoing(self.topic, value, b"k", headers) for value in values])

    def retry(self, message_id: str, attempt: int, group: str | None = None) -> tuple[Header, ...]:
        """The headers of a retry for a group, by default the example's."""
        return (
            ("hop", b"a"),
            ("hop", None if self.adapter != "faststream" else b"b"),  # FastStream itself cannot parse null headers
            (names.MESSAGE_ID, message_id.encode()),
            (names.ATTEMPT, b"%d" % attempt),
            (names.GROUP, (self.group if group is None else group).encode()),
        )


async def prepared(adapter: str, bootstrap: str) -> Example:
    """An example with its topics: the source with one partition, the app's by `dlq-stream init`."""
    example = Example(adapter, bootstrap, unique_name("app"), unique_name("heat"), unique_name("agents"))
    await create_topics(bootstrap, example.topic, partitions=1)
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dlq_stream.cli", "init", "--brokers", bootstrap, "--app-id", example.app_id),
        *("--partitions", "2"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    assert await done.wait() == 0
    return example


async def eventually(look: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool], example: Example) -> Any:
    """What ``look`` finds as soon as it is as wanted."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not wanted(found := await look()):
        assert time.monotonic() < deadline, f"{found}\n{example.logged()}"
        await asyncio.sleep(0.1)
    return found
