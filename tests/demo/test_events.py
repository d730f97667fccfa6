"""The seeded input: the same for everyone, and the schema's violations are the ones it says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.demo.backend import TIMEOUTS_PER_EVENT_MAX, BackendDown, SensorBackend
from dlq_stream.demo.events import ASSETS, SchemaViolation, event, event_id_of, validated
from dlq_stream.demo.plan import MAX_RETRIES, Plan, new_name, retry_policy, worker_environment

PLAN = Plan("demo-x1", "b:9092", seed=7, seconds=60, rate=50, start_ms=1_000_000)


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 30))
def test_an_event_follows_from_seed_and_number(seed: int, number: int) -> None:
    """And can be made without those before it; whether it is valid is what the generator says."""
    made = event(seed, number)
    assert made == event(seed, number)
    assert event_id_of(made.value) == made.event_id
    try:
        validated(made.value)
    except SchemaViolation:
        assert made.is_violation
    else:
        assert not made.is_violation


def test_a_known_event_stays_as_it_is() -> None:
    """A change of the generator is a decision: seeds that people wrote down would mean something else."""
    made = event(1, 2)
    body = json.loads(made.value)
    assert (made.key.decode(), made.event_id) == (body["asset_id"], body["event_id"])
    assert made.headers[1][0] == made.headers[2][0] == "hop"
    assert made.event_id == "BLR-07-0000002"


def test_all_kinds_and_enough_violations() -> None:
    """A run of a minute shows everything."""
    made = [event(5, number) for number in range(3_000)]
    assert {json.loads(each.value)["asset_kind"] for each in made} > set(ASSETS)
    assert 40 < sum(each.is_violation for each in made) < 150
    assert len({each.key for each in made}) == 24


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"[]", b'{"readings": 1}', b"[" * 100_000, b'{"event_id": 3}'])
def test_anything_can_be_validated(value: bytes | None) -> None:
    """What is no event is a violation, and has no id."""
    with pytest.raises(SchemaViolation):
        validated(value)
    assert event_id_of(value) == ""


async def test_the_backend_is_down_in_the_middle_and_slow_by_the_seed() -> None:
    """Whoever can succeed does: time-outs end by attempt, and the outage before the retries do."""
    now = [0.0]
    backend = SensorBackend(PLAN, clock=lambda: now[0])
    begin, end = (PLAN.start_ms / 1000 + each for each in PLAN.outage)
    for now[0] in (begin, end - 0.001):
        with pytest.raises(BackendDown):
            await backend.calibration("a", 0)
    for now[0] in (begin - 0.001, end):
        failed = [n for n in range(100) if not await answers(backend, f"e{n}", 0)]
        assert 0 < len(failed) < 20
    assert all([await answers(backend, f"e{n}", TIMEOUTS_PER_EVENT_MAX) for n in range(100)])
    assert end - begin < sum((1, 2, 4, 4, 4, 4)) - 4 * TIMEOUTS_PER_EVENT_MAX
    assert retry_policy().max_retries == MAX_RETRIES == 6


async def answers(backend: SensorBackend, event_id: str, attempt: int) -> bool:
    try:
        return await backend.calibration(event_id, attempt) is not None
    except TimeoutError:
        return False


def test_a_plan_travels_by_command_line() -> None:
    """And its names keep apart what workers write to and what belongs to them."""
    assert Plan.from_json(PLAN.to_json()) == PLAN
    assert not PLAN.source.startswith(PLAN.app_id)
    assert (PLAN.app_id, PLAN.source) == ("demo-x1-app", "demo-x1-heat-processing")
    assert new_name() != new_name()


def test_workers_get_the_shortened_policy_and_nobodys_settings() -> None:
    """What a user has set for his own app would make another verdict."""
    given_ = {"PATH": "/bin", "DLQ_MAX_RETRIES": "9", "DLQ_CONFIG": "/etc/dlq.toml"}
    made = worker_environment(given_)
    assert made["PATH"] == "/bin"
    assert made["DLQ_MAX_RETRIES"] == "6"
    assert "DLQ_CONFIG" not in made
