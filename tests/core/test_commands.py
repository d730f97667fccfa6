"""Commands: what each type says, and JSON at its worst."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.commands import (
    Action,
    Command,
    MessageCommand,
    Order,
    Succeeded,
    Traffic,
    by_chars_max,
    command_bytes_max,
    encode_command,
    parse_command,
    reason_chars_max,
)
from dlq_stream.core.errors import MalformedEvent
from dlq_stream.core.headers import attempt_max, fault_of, number_max, time_ms_max
from dlq_stream.core.lifecycle import Event

ID = bytes(range(16))
TRAFFIC_FIELDS = ("queue", "group", "processed", "failed", "from_ms", "to_ms")


def command(kind: str = "retry", **fields: Any) -> bytes:
    known = {"type": kind, "message_id": ID.hex()}
    return json.dumps(known | fields).encode()


def order(**fields: Any) -> bytes:
    return command(**({"revision": 3} | fields))


def traffic(**fields: Any) -> bytes:
    known = {"queue": "ovens", "group": "agents", "processed": 7, "failed": 2, "from_ms": 1_000, "to_ms": 2_000}
    return json.dumps({"type": "traffic"} | known | fields).encode()


def test_a_success() -> None:
    """What the consumer of a retry says."""
    assert parse_command(command("succeeded", attempt=2)) == Succeeded(ID, 2)


@pytest.mark.parametrize("action", [action for action in Action if action is not Action.RESCHEDULE])
def test_orders(action: Action) -> None:
    """What operators say; reason and name may be left out."""
    full = order(type=action.value, reason="fixed", by="ada")
    assert parse_command(full) == Order(ID, action, 3, "fixed", "ada")
    assert parse_command(order(type=action.value)) == Order(ID, action, 3)


def test_a_reschedule() -> None:
    """The same and an instant."""
    raw = order(type="reschedule", due_at=1_700_000_000_000)
    assert parse_command(raw) == Order(ID, Action.RESCHEDULE, 3, due_at=1_700_000_000_000)


def test_traffic() -> None:
    """What a consumer says of itself, now and then; also where it is of no group, or nothing came."""
    assert parse_command(traffic()) == Traffic("ovens", "agents", 7, 2, 1_000, 2_000)
    assert parse_command(traffic(group="", processed=0, failed=0, to_ms=1_000)) == Traffic(
        "ovens", "", 0, 0, 1_000, 1_000
    )


def test_what_orders_are_to_the_lifecycle() -> None:
    """Each is an event of the table, and no two are the same."""
    assert {action: action.event for action in Action} == {
        Action.RETRY: Event.RETRY_NOW,
        Action.RESCHEDULE: Event.RESCHEDULED,
        Action.RESOLVE: Event.RESOLVED_BY_OPERATOR,
        Action.ESCALATE: Event.GIVEN_UP,
        Action.REDRIVE: Event.REDRIVEN,
        Action.PURGE: Event.PURGED,
    }


def test_ids_in_either_case() -> None:
    """As in headers."""
    assert parse_command(command("succeeded", message_id=ID.hex().upper(), attempt=0)) == Succeeded(ID, 0)


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (None, "command"),
        (b"", "command"),
        (b"x", "command"),
        (b"\xff\xfe", "command"),
        ('{"type": "retry"}'.encode("utf-16"), "command"),
        (b"\xef\xbb\xbf" + order(), "command"),
        (b"null", "command"),
        (b"[]", "command"),
        (b'"retry"', "command"),
        (b"{}{}", "command"),
        (b"NaN", "command"),
        (b'{"type": NaN}', "command"),
        (b'{"type": -Infinity}', "command"),
        (b"[" * 10_000, "command"),
        (b"[" * 8_000 + b"]" * 8_000, "command"),
        (b'{"a":' * 3_000 + b"1" + b"}" * 3_000, "command"),
        (b'{"type": "retry", "type": "retry"}', "command"),
        (b'{"type": {"a": 1, "a": 2}}', "command"),
        (b'{"type": ' + b"9" * 5_000 + b"}", "command"),
        (b" " * (command_bytes_max + 1), "command"),
        (b"{}", "type"),
        (command("explode"), "type"),
        (command("RETRY"), "type"),
        (command("Traffic"), "type"),
        (b'{"type": null}', "type"),
        (b'{"type": ["retry"]}', "type"),
        (b'{"type": 1}', "type"),
        (b'{"type": {}}', "type"),
        (b'{"type": "retry", "revision": 1}', "message_id"),
        (order(message_id=None), "message_id"),
        (order(message_id=7), "message_id"),
        (order(message_id=""), "message_id"),
        (order(message_id="g" * 32), "message_id"),
        (order(message_id="٣" * 32), "message_id"),
        (order(message_id="\ud800" * 32), "message_id"),
        (command("succeeded"), "attempt"),
        (command("succeeded", attempt=True), "attempt"),
        (command("succeeded", attempt=1.0), "attempt"),
        (command("succeeded", attempt="1"), "attempt"),
        (command("succeeded", attempt=None), "attempt"),
        (command("succeeded", attempt=-1), "attempt"),
        (command("succeeded", attempt=attempt_max + 1), "attempt"),
        (command("succeeded", attempt=10**4000), "attempt"),
        (command("succeeded", attempt=1, revision=1), "field 'revision'"),
        (command(), "revision"),
        (order(revision=False), "revision"),
        (order(revision=-1), "revision"),
        (order(revision=number_max + 1), "revision"),
        (order(revision=[]), "revision"),
        (order(attempt=1), "field 'attempt'"),
        (order(due_at=1), "field 'due_at'"),
        (order(**{"": 1}), "field ''"),
        (order(**{"x\n" * 100: 1}), "field 'x\\nx"),
        (traffic(message_id=ID.hex()), "field 'message_id'"),
        (traffic(queue=None), "queue"),
        (traffic(queue=""), "queue"),
        (traffic(queue="a\0b"), "queue"),
        (traffic(queue="ä" * 125), "queue"),
        (traffic(queue="\ud800"), "queue"),
        (traffic(group=3), "group"),
        (traffic(group="g" * 1_025), "group"),
        (traffic(processed=-1), "processed"),
        (traffic(processed=True), "processed"),
        (traffic(processed=number_max + 1), "processed"),
        (traffic(failed=8), "failed"),
        (traffic(failed=1.0), "failed"),
        (traffic(from_ms=-1), "from_ms"),
        (traffic(from_ms=2_001), "to_ms"),
        (traffic(to_ms=time_ms_max + 1), "to_ms"),
        (b'{"type": "traffic"}', "processed"),
        (order(type="reschedule"), "due_at"),
        (order(type="reschedule", due_at=True), "due_at"),
        (order(type="reschedule", due_at=1e12), "due_at"),
        (order(type="reschedule", due_at=time_ms_max + 1), "due_at"),
        (order(reason=None), "reason"),
        (order(reason=1), "reason"),
        (order(reason={}), "reason"),
        (order(reason="x" * (reason_chars_max + 1)), "reason"),
        (order(reason="\ud800"), "reason"),
        (order(by=["ada"]), "by"),
        (order(by="x" * (by_chars_max + 1)), "by"),
    ],
)
def test_malformed_commands(raw: bytes | None, fault: str) -> None:
    """The error names the field at fault, and no error is long."""
    with pytest.raises(MalformedEvent) as caught:
        parse_command(raw)
    assert fault_of(caught.value).startswith(fault)
    assert len(str(caught.value)) < 250


def test_bounds_are_taken() -> None:
    """What is at its bound is not beyond it."""
    raw = order(reason="ä" * reason_chars_max, by="x" * by_chars_max, revision=number_max)
    assert parse_command(raw) == Order(ID, Action.RETRY, number_max, "ä" * reason_chars_max, "x" * by_chars_max)


_texts = st.text(st.characters(codec="utf-8"), max_size=30)
_ids = st.binary(min_size=16, max_size=16)
_revisions = st.integers(0, number_max)
_orders = st.sampled_from([action for action in Action if action is not Action.RESCHEDULE])
_instants = st.integers(0, time_ms_max)
_names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=30)
_messages_said: st.SearchStrategy[MessageCommand] = (
    st.builds(Succeeded, _ids, st.integers(0, attempt_max))
    | st.builds(Order, _ids, _orders, _revisions, _texts, _texts)
    | st.builds(Order, _ids, st.just(Action.RESCHEDULE), _revisions, _texts, _texts, due_at=_instants)
)


@st.composite
def _traffic(draw: st.DrawFn) -> Traffic:
    processed, failed = sorted(draw(st.tuples(_revisions, _revisions)), reverse=True)
    from_ms, to_ms = sorted(draw(st.tuples(_instants, _instants)))
    return Traffic(draw(_names), draw(_texts), processed, failed, from_ms, to_ms)


_commands: st.SearchStrategy[Command] = _messages_said | _traffic()


@given(_commands)
def test_commands_read_back(said: Command) -> None:
    """What is written is what is read."""
    assert parse_command(encode_command(said)) == said


@given(st.binary(max_size=100))
def test_any_bytes_are_a_command_or_malformed(raw: bytes) -> None:
    """Nothing else is raised."""
    with suppress(MalformedEvent):
        parse_command(raw)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(
            [*("type", "message_id", "attempt", "revision", "reason", "by", "due_at", "x"), *TRAFFIC_FIELDS]
        ),
        _json | st.sampled_from(["succeeded", "traffic", *Action, ID.hex()]),
    )
)
def test_any_json_is_a_command_or_malformed(fields: dict[str, Any]) -> None:
    """The right fields with the wrong contents, too."""
    with suppress(MalformedEvent):
        said = parse_command(json.dumps(fields).encode())
        assert isinstance(said, Traffic) or said.id == ID
