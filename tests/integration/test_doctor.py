"""``dlq-stream doctor`` as people run it, beside a worker that works."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.conftest import MakeApp
from tests.kafka_clients import Outgoing
from tests.kafka_fixture import LocalKafka, unique_name


async def test_a_healthy_app(kafka: LocalKafka, make_app: MakeApp) -> None:
    """Code 0, nothing wrong, and no warning but the single copy of one broker; who works is told by name."""
    app = await make_app(kafka)
    source = await app.source()
    await app.worker("--instance-id", "w1").start()
    (record,) = await app.produced(Outgoing(source, b"x", partition=0))
    await app.send(app.failure(record))
    await app.until(source, 2)
    await app.processed()
    done = await app.run("doctor", "--json")
    told: dict[str, Any] = json.loads(done.stdout)
    found = {(each["check"], each["code"]): each for each in told["findings"] if each["level"] != "ok"}
    assert (done.returncode, set(found)) == (0, {("topics", "copies")}), found
    what = {each["check"]: each["what"] for each in told["findings"]}
    assert what["members"].startswith("1 worker: w1 (")
    assert what["members"].endswith("has 0-3")
    assert "workers' clocks agree with the brokers'" in what["clocks"]
    assert told["verdict"] == "warning"


async def test_an_app_that_is_not_there(kafka: LocalKafka, make_app: MakeApp) -> None:
    """Code 1, with what to run; and nothing was created by looking."""
    app = await make_app(kafka)
    done = await app.run("doctor", "--app-id", unique_name("other"))
    assert done.returncode == 1, done.stderr
    assert "fix: run `dlq-stream init`" in done.stdout
    nobody = await app.run("doctor", "--brokers", "127.0.0.1:1", "--wait-seconds", "0")
    assert nobody.returncode == 69
    assert "WRONG    brokers       no broker answers at 127.0.0.1:1" in nobody.stdout
