"""Log lines: their shapes, and what is not in them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from dlq_stream import logs
from tests.undisturbed import logging_as_it_was


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A stream to log to; the root logger and those of others are put back afterwards."""
    with logging_as_it_was():
        yield io.StringIO()


def test_text_lines(stream: io.StringIO) -> None:
    """Time, level, logger, text, fields; a line break in the text cannot forge a line."""
    logs.set_up("text", "info", stream)
    logging.getLogger("dlq_stream.x").info("hello\nworld %d", 7, extra={"fields": {"partition": 3}})
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(" INFO dlq_stream.x: hello\\nworld 7 partition=3")
    assert line[10] == "T"
    assert line.split()[0].endswith("Z")


def test_json_lines(stream: io.StringIO) -> None:
    """One object per line with the same content; a traceback is a field; unknown types become text."""
    logs.set_up("json", "info", stream)
    try:
        raise ValueError("x\ny")
    except ValueError:
        logging.getLogger("a").warning("bad", exc_info=True, extra={"fields": {"level": "kept out", "what": {1}}})
    (line,) = stream.getvalue().splitlines()
    said = json.loads(line)
    assert (said["level"], said["logger"], said["message"], said["what"]) == ("warning", "a", "bad", "{1}")
    assert "ValueError" in said["traceback"]


def test_a_traceback_follows_the_text(stream: io.StringIO) -> None:
    """For people it is printed as Python prints it."""
    logs.set_up("text", "info", stream)
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("a").exception("bad")
    assert stream.getvalue().splitlines()[1].startswith("Traceback")


def test_debug_lines_of_others_are_never_written(stream: io.StringIO) -> None:
    """aiokafka's debug lines print requests with their payloads; ours are safe."""
    logs.set_up("text", "debug", stream)
    for name in ("aiokafka.conn", "faust.transport.drivers", "mode.services"):
        logging.getLogger(name).debug("payload")
    logging.getLogger("dlq_stream").debug("ours")
    assert "payload" not in stream.getvalue()
    assert "ours" in stream.getvalue()


@pytest.mark.parametrize(("level", "shown"), [("info", False), ("debug", True)])
def test_chatter_of_others_is_for_debugging(stream: io.StringIO, level: str, shown: bool) -> None:
    """What services start and topics are subscribed is not for every day; their warnings are."""
    logs.set_up("text", level, stream)
    logging.getLogger("aiokafka.consumer").info("subscribed")
    logging.getLogger("dlq_stream.runtime.consumer").info("[^--Consumer]: Starting...")
    assert ("subscribed" in stream.getvalue(), "Starting" in stream.getvalue()) == (shown, shown)
    logging.getLogger("aiokafka.consumer").warning("one")
    logging.getLogger("dlq_stream.runtime.consumer").warning("[^--Consumer]: two")
    assert len(stream.getvalue().splitlines()) == 2 * shown + 2


def test_verification_noise_is_dropped(stream: io.StringIO) -> None:
    """The harmless retry after NotEnoughReplicas is not said; other retries, and the final failure, are."""
    logs.set_up("text", "info", stream)
    sender = logging.getLogger("aiokafka.producer.sender")
    text = "Got error produce response on topic-partition %s, retrying. Error: %s"
    sender.warning(text, "t-1", "<class 'aiokafka.errors.NotEnoughReplicasError'>")
    sender.warning(text, "t-2", "<class 'aiokafka.errors.NotLeaderForPartitionError'>")
    sender.error("NotEnoughReplicasError: gave up")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "t-2" in lines[0]


def test_complaints_about_a_topic_are_said_once(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that looks for a missing topic many times a second fills no disk, and forgetting has a bound."""
    monkeypatch.setattr(logs, "COMPLAINTS_MAX", 2)
    logs.set_up("text", "info", stream)
    cluster = logging.getLogger("aiokafka.cluster")
    for topic in ("a", "a", "b", "a", "c", "a"):
        cluster.error("Topic %s not found in cluster metadata", topic)
    assert [line.split()[4] for line in stream.getvalue().splitlines()] == ["a", "b", "c", "a"]


def test_an_outage_fills_no_disk(stream: io.StringIO) -> None:
    """Every client of every partition tries to connect, many times a second."""
    logs.set_up("text", "info", stream)
    for _ in range(100):
        logging.getLogger("aiokafka").error("Unable connect to node with id %s", 1)
        logging.getLogger("aiokafka.producer.sender").warning("Cannot send")
    assert len(stream.getvalue().splitlines()) == 2


def test_setting_up_twice_writes_once(stream: io.StringIO) -> None:
    """Whoever was there before is replaced."""
    logs.set_up("text", "info", io.StringIO())
    logs.set_up("text", "warning", stream)
    logging.getLogger("a").warning("once")
    logging.getLogger("a").info("never")
    assert len(stream.getvalue().splitlines()) == 1
