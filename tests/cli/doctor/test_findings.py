"""What the brokers' answers come to, without brokers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from dlq_stream.cli.doctor import as_lines, as_object, members, replication, rights, topics, transactions, versions
from dlq_stream.cli.doctor.examination import Examination
from dlq_stream.cli.doctor.finding import Finding, Level, ok, some, warning, wrong
from dlq_stream.cli.doctor.protocol import NOT_TOLD, features_of
from dlq_stream.cli.doctor.transactions import Holder
from dlq_stream.settings import Settings
from dlq_stream.topics.acls import Role, rights_of

Judged = list[tuple[Level, str]]


def judged(found: Any) -> Judged:
    return [(finding.level, finding.code) for finding in found]


# -------------------------------------------------------------------------------------------------------- replication


def partition(replicas: Sequence[int], isr: Sequence[int], leader: int = 1, number: int = 0) -> dict[str, Any]:
    return {"partition": number, "leader": leader, "replicas": replicas, "isr": isr, "offline_replicas": []}


@pytest.mark.parametrize(
    ("partitions", "insync", "expected"),
    [
        ([partition([1, 2, 3], [1, 2, 3])], 2, []),
        ([partition([1], [1])], 1, []),
        ([partition([1, 2, 3], [1, 2])], 2, [(Level.WARNING, "replica")]),
        ([partition([1, 2, 3], [1])], 2, [(Level.WRONG, "insync")]),
        ([partition([1, 2, 3], [], leader=-1)], 2, [(Level.WRONG, "offline")]),
        ([partition([1, 2], [1, 2])], 2, [(Level.WARNING, "insync")]),
        (
            [partition([1, 2, 3], [1], number=0), partition([1, 2, 3], [], leader=-1, number=1)],
            2,
            [(Level.WRONG, "offline"), (Level.WRONG, "insync")],
        ),
    ],
)
def test_copies(partitions: list[dict[str, Any]], insync: int, expected: Judged) -> None:
    """No leader and too few in sync are wrong; a copy that is behind, or none to spare, is a warning."""
    found = list(replication.findings_of("t", {"partitions": partitions}, insync, brokers=3))
    assert judged(found) == expected
    assert all(finding.subject == "t" and finding.fix for finding in found)


def test_kafkas_own_topics_with_one_copy() -> None:
    """Where there are brokers for more."""
    lonely = {"partitions": [partition([1], [1])]}
    assert judged(replication.findings_of("__transaction_state", lonely, 1, brokers=3)) == [(Level.WARNING, "copies")]
    assert judged(replication.findings_of("__transaction_state", lonely, 1, brokers=1)) == []


# ------------------------------------------------------------------------------------------------------------ members


def member(name: str, partitions: Sequence[int], *, static: bool = True) -> dict[str, Any]:
    assigned = [("app-failures", list(partitions)), ("app-commands", list(partitions))] if partitions else []
    return {
        "member_id": f"{name}-0815",
        "instance_id": name if static else None,
        "client_host": "/10.0.0.7",
        "assignment": ConsumerProtocolMemberAssignment(0, assigned, b"").encode(),
    }


def group(*joined: Mapping[str, Any], state: str = "Stable") -> list[Finding]:
    return list(members.findings_of({"members": joined, "state": state}, "app-failures", 4))


def test_a_group_that_works() -> None:
    """Who has what, static ones by their names."""
    (finding,) = group(member("w1", [0, 1, 3]), member("w2", [2], static=False))
    assert finding.level is Level.OK
    assert finding.what == "2 workers: w1 (10.0.0.7, static) has 0-1, 3, w2-0815 (10.0.0.7) has 2"


def test_partitions_that_nobody_has() -> None:
    """What is there waits, so it is wrong."""
    found = group(member("w1", [1]))
    assert judged(found) == [(Level.OK, "member"), (Level.WRONG, "partition")]
    assert "partition 0, 2-3" in found[1].what


def test_workers_that_have_nothing() -> None:
    """Harmless."""
    assert judged(group(member("w1", [0, 1, 2, 3]), member("w2", []))) == [
        (Level.OK, "member"),
        (Level.WARNING, "member"),
    ]


def test_a_group_in_motion_or_empty() -> None:
    """Nothing more can be said then."""
    assert judged(group()) == [(Level.WARNING, "member")]
    assert judged(group(member("w1", []), state="PreparingRebalance")) == [(Level.WARNING, "group")]


# ----------------------------------------------------------------------------------------------------------- versions


def answer(*apis: int, level: int | None = 30, top: int = 1) -> Any:
    feature = b"\x11metadata.version" + level.to_bytes(2, "big") * 2 + b"\0" if level is not None else b""
    return SimpleNamespace(
        api_keys=[(api, 0, top, {}) for api in apis], tags={2: b"\x02" + feature} if feature else {}, error_code=0
    )


ALL = (*versions.NEEDED, *versions.WANTED)


def test_features() -> None:
    """A compact array in a tagged field of the answer."""
    assert features_of(answer()) == {"metadata.version": 30}
    assert features_of(answer(level=None)) == {}


def test_what_brokers_can_do() -> None:
    """Without transactions nothing goes; without a way to ask about them some things do."""
    assert judged(versions._theirs({1: answer(*ALL), 2: answer(*ALL)})) == [(Level.OK, "kafka")]
    assert judged(versions._theirs({1: answer(*versions.NEEDED)})) == [(Level.WARNING, "api"), (Level.OK, "kafka")]
    lacking = list(versions._theirs({1: answer(65, level=None)}))
    assert judged(lacking) == [(Level.WRONG, "api")] * len(versions.NEEDED) + [(Level.OK, "kafka")]
    mixed = versions._theirs({1: answer(*ALL), 2: answer(*ALL, top=2)})
    assert judged(mixed) == [(Level.WARNING, "kafka"), (Level.OK, "kafka")]


def test_our_libraries() -> None:
    """As tested, another version, or not here at all: an operator's machine runs no worker."""
    tested = dict(versions.TESTED)
    assert judged(versions._ours(tested)) == [(Level.OK, "library")]
    assert judged(versions._ours(tested | {"faust-streaming": "0.16.0"})) == [(Level.WARNING, "library")]
    assert judged(versions._ours(tested | {"faust-streaming": "not installed"})) == [(Level.OK, "library")]


# ------------------------------------------------------------------------------------------------------------- rights

ALLOWED = sum(1 << bit for bit in rights.OPERATIONS.values())
TOPIC, GROUP = ("topic", "app-failures"), ("group", "app")


def rights_found(granted: rights.Granted, role: Role | None = None) -> Finding:
    return rights.finding_of(granted, rights_of(Settings(app_id="app")), role)


def test_the_rights_of_one_role_are_enough() -> None:
    """Unless a role is named; what is not known counts as there."""
    only_write = 1 << rights.OPERATIONS["Write"] | 1 << rights.OPERATIONS["DescribeConfigs"]
    assert rights_found({TOPIC: ALLOWED, GROUP: ALLOWED}).what.endswith("init, worker, agent, operator")
    agent = {TOPIC: only_write, GROUP: 0}
    assert rights_found(agent).what.startswith("this user has the rights of agent; it lacks what these need: init (")
    found = rights_found(agent, "worker")
    assert (found.level, found.what) == (
        Level.WARNING,
        "this user has not the rights of a worker: Read on topic app-failures, Read on group app",
    )
    assert rights_found({TOPIC: NOT_TOLD, GROUP: ALLOWED}, "worker").level is Level.OK


def test_nobodys_rights() -> None:
    """An operator's are what is looked for then, since it is he who asks."""
    assert rights_found({TOPIC: 0, GROUP: 0}).what.startswith("this user has not the rights of an operator: Read, ")


# ------------------------------------------------------------------------------------------------------- transactions


def test_a_transaction_that_nobody_will_end() -> None:
    """Its coordinator has forgotten it, so no time-out comes: wrong however young it is."""
    holder = Holder(("t", 3), 17, 4711, "", open_ms=5, timeout_ms=0)
    found = transactions._finding("readers wait", "t partition 3", holder, 900)
    assert found.level is Level.WRONG
    assert "no coordinator knows of it" in found.what
    assert found.fix == "kafka-transactions.sh abort --topic t --partition 3 --start-offset 17"


# ------------------------------------------------------------------------------------------------------- how it is told


def test_a_mismatch_is_told_in_halves() -> None:
    """As the worker says it: what, and after the semicolon the fix."""
    found = topics._mismatch("topic a-failures: partitions is 2, expected 3; set partitions to 2")
    assert (found.subject, found.what) == ("a-failures", "topic a-failures: partitions is 2, expected 3")
    assert found.fix == "set partitions to 2"


def test_text_and_json() -> None:
    """The worst decides; counts; and every field is there, whatever it holds."""
    examined = Examination(
        (("a", ok("x", "fine")), ("b", warning("y", "odd", "look", "t")), ("b", wrong("z", "bad", "mend"))),
        reached=True,
    )
    assert examined.verdict is Level.WRONG
    assert list(as_lines(examined)) == [
        "ok       a             fine",
        "warning  b             odd",
        "                       fix: look",
        "WRONG    b             bad",
        "                       fix: mend",
        "",
        "1 wrong, 1 warning, 1 ok",
    ]
    told = as_object("app", examined, 1_700_000_000_000)
    assert (told["app_id"], told["as_of_ms"], told["verdict"]) == ("app", 1_700_000_000_000, "wrong")
    assert told["counts"] == {"ok": 1, "warning": 1, "wrong": 1}
    assert told["findings"][:2] == [
        {"check": "a", "code": "x", "level": "ok", "subject": None, "what": "fine", "fix": None},
        {"check": "b", "code": "y", "level": "warning", "subject": "t", "what": "odd", "fix": "look"},
    ]


def test_long_lists_are_cut() -> None:
    """A finding is a line."""
    assert some(list("abcdefg"), 3) == "a, b, c and 4 more"
    assert some(["a"], 3) == "a"
