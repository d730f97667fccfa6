"""The lifecycle: total, as designed row by row, and indifferent to repetition and reordering."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.lifecycle import (
    LIFECYCLE,
    Event,
    Ignored,
    Standing,
    State,
    diagram,
    next_state,
    standing,
    standing_of_success,
    why_ignored,
)
from dlq_stream.core.model import DLQMessageStatus

# The design's table, column by column: the letter of the state that each event leads to, "." where it is ignored.
_LETTERS = {"A": State.ABSENT, "P": State.PENDING, "R": State.RETRYING, "U": State.PRESUMED, "S": State.RESOLVED}
_LETTERS |= {"E": State.ESCALATED}
_DESIGN = {
    #                           absent pending retrying presumed resolved escalated
    Event.FAILED_AGAIN: "P . P P . .",
    Event.FAILED_FINALLY: "E . E E . .",
    Event.DUE: ". R . . . .",
    Event.RETRY_NOW: ". R . . . .",
    Event.RESCHEDULED: ". P . . . .",
    Event.SUCCEEDED: ". S S . . S",
    Event.RESOLVED_BY_OPERATOR: ". S S . . S",
    Event.GIVEN_UP: ". E E . . .",
    Event.TIMED_OUT_AGAIN: ". . P . . .",
    Event.TIMED_OUT_FINALLY: ". . E . . .",
    Event.PRESUMED_RESOLVED: ". . U . . .",
    Event.REFUSED: ". E . . . .",
    Event.REDRIVEN: ". . . . . P",
    Event.PURGED: ". . . A A A",
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_state_with_every_event(state: State, event: Event) -> None:
    """Each pair is a transition or ignored, exactly as the design's table has it."""
    letter = _DESIGN[event].split()[list(State).index(state)]
    assert next_state(state, event) is _LETTERS.get(letter)


def test_the_table_is_total() -> None:
    """Every state is a row, and no row is empty: whatever exists can end."""
    assert set(LIFECYCLE) == set(State)
    assert all(LIFECYCLE.values())


def test_every_event_leads_somewhere() -> None:
    """An event that nothing lists would be dead."""
    assert {event for arrows in LIFECYCLE.values() for event in arrows} == set(Event)


def test_every_state_reaches_the_end() -> None:
    """From anywhere there is a way to being purged, and from nothing a way to everywhere."""

    def reachable(start: State) -> set[State]:
        found, todo = set(), [start]
        while todo:
            for target in LIFECYCLE[todo.pop()].values():
                if target not in found:
                    found.add(target)
                    todo.append(target)
        return found

    assert all(State.ABSENT in reachable(state) for state in State)
    assert reachable(State.ABSENT) == set(State)


def test_the_table_cannot_be_changed() -> None:
    """Nobody adds a transition at run time, not even one step down."""
    with pytest.raises(TypeError):
        LIFECYCLE[State.PENDING] = {}  # type: ignore[index]
    with pytest.raises(TypeError):
        LIFECYCLE[State.RESOLVED][Event.REDRIVEN] = State.PENDING  # type: ignore[index]


def test_statuses_of_states() -> None:
    """Every state has a public status; the two kinds of RESOLVED share one, and no row is PURGED."""
    assert {state: state.status for state in State} == {
        State.ABSENT: DLQMessageStatus.PURGED,
        State.PENDING: DLQMessageStatus.PENDING,
        State.RETRYING: DLQMessageStatus.RETRYING,
        State.PRESUMED: DLQMessageStatus.RESOLVED,
        State.RESOLVED: DLQMessageStatus.RESOLVED,
        State.ESCALATED: DLQMessageStatus.ESCALATED,
    }


def test_what_is_ignored_has_a_reason() -> None:
    """A message that does not exist is told apart from one in the wrong status."""
    assert why_ignored(State.ABSENT) is Ignored.ABSENT
    assert {why_ignored(state) for state in State if state is not State.ABSENT} == {Ignored.STATUS}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(("told", "compared"), [(1, -1), (2, 0), (3, 1)])
def test_standing_of_failures(state: State, told: int, compared: int) -> None:
    """Below the row's attempt: heard before; above: never committed; equal: news while its outcome is open."""
    found = standing(state, 2, told)
    if state is State.ABSENT:
        assert found is Standing.CURRENT
    elif compared > 0:
        assert found is Standing.AHEAD
    elif compared == 0 and state in (State.RETRYING, State.PRESUMED):
        assert found is Standing.CURRENT
    else:
        assert found is Standing.DUPLICATE


def test_standing_of_successes() -> None:
    """A success of any delivery so far counts; of one that was never committed does not."""
    assert [standing_of_success(2, told) for told in (0, 2, 3)] == [Standing.CURRENT, Standing.CURRENT, Standing.AHEAD]


def test_diagram_shows_every_transition_once() -> None:
    """Each arrow of the table is in the diagram, with the words of its events, and nothing else is."""
    lines = diagram().splitlines()
    assert lines[0] == "stateDiagram-v2"
    names = {State.ABSENT: "PURGED"}
    drawn = {}
    for line in lines[2:-1]:
        arrow, words = line.strip().split(": ", 1)
        drawn[arrow] = words.split(" / ")
    expected: dict[str, list[str]] = {}
    for state, arrows in LIFECYCLE.items():
        for event, target in arrows.items():
            arrow = f"{'[*]' if state is State.ABSENT else state.name} --> {names.get(target, target.name)}"
            expected.setdefault(arrow, []).append(event.value)
    assert drawn == expected
    assert lines[-1].strip() == "PURGED --> [*]"


@dataclass(frozen=True)
class Row:
    """As much of a message as the lifecycle needs."""

    state: State = State.ABSENT
    attempt: int = 0
    revision: int = 0


@dataclass(frozen=True)
class Told:
    """Something that happens: an event with what it is keyed by, an attempt or a revision (None: the timer's)."""

    event: Event
    attempt: int | None = None
    revision: int | None = None


_FAILURES = (Event.FAILED_AGAIN, Event.FAILED_FINALLY)
_TIMER = (Event.DUE, Event.TIMED_OUT_AGAIN, Event.TIMED_OUT_FINALLY, Event.PRESUMED_RESOLVED, Event.REFUSED)


def applied(row: Row, told: Told) -> Row:
    """What the engine does, with everything but the lifecycle left out."""
    if told.event in _FAILURES and standing(row.state, row.attempt, told.attempt or 0) is not Standing.CURRENT:
        return row
    if told.event is Event.SUCCEEDED and standing_of_success(row.attempt, told.attempt or 0) is not Standing.CURRENT:
        return row
    if told.revision is not None and told.revision != row.revision:
        return row
    state = next_state(row.state, told.event)
    if state is None:
        return row
    if state is State.ABSENT:
        return Row()
    attempt = row.attempt
    if row.state is State.ABSENT:
        attempt = told.attempt or 0
    elif state is State.RETRYING:
        attempt += 1
    return Row(state, attempt, row.revision + 1)


def _keyed(event: Event) -> st.SearchStrategy[Told]:
    if event in _FAILURES or event is Event.SUCCEEDED:
        return st.builds(Told, st.just(event), attempt=st.integers(0, 4))
    if event in _TIMER:
        return st.just(Told(event))
    return st.builds(Told, st.just(event), revision=st.integers(0, 8))


_anything = st.sampled_from(Event).flatmap(_keyed)


@given(st.lists(_anything, max_size=40), _anything)
def test_repetition_changes_nothing(before: list[Told], told: Told) -> None:
    """Whatever happened before: the same thing told twice has the effect of being told once."""
    row = Row()
    for each in before:
        row = applied(row, each)
    once = applied(row, told)
    assert applied(once, told) == once


@given(st.lists(_anything, max_size=60))
def test_attempts_and_revisions_only_grow(happened: list[Told]) -> None:
    """During a life both grow, by one at a time, and every transition has a revision of its own."""
    row = Row()
    for told in happened:
        after = applied(row, told)
        if after.state is not State.ABSENT and row.state is not State.ABSENT:
            assert after.attempt - row.attempt in (0, 1)
            assert after.revision - row.revision == (after != row)
        row = after


@given(st.integers(0, 5), st.data())
def test_reordering_and_duplication_change_nothing(deliveries: int, data: st.DataObject) -> None:
    """A message that fails so many times ends alike, however often and late its old failures are told again."""
    straight = disturbed = Row()
    for attempt in range(deliveries + 1):
        failure = Told(Event.FAILED_AGAIN, attempt)
        straight = applied(straight, failure)
        disturbed = applied(disturbed, failure)
        for old in data.draw(st.lists(st.integers(0, attempt), max_size=3)):
            disturbed = applied(disturbed, Told(Event.FAILED_AGAIN, old))
        straight = applied(straight, Told(Event.DUE))
        disturbed = applied(disturbed, Told(Event.DUE))
        for old in data.draw(st.lists(st.integers(0, attempt), max_size=3)):
            disturbed = applied(disturbed, Told(Event.FAILED_AGAIN, old))
    assert disturbed == straight
    assert straight == Row(State.RETRYING, deliveries + 1, straight.revision)


def test_a_presumed_success_is_reopened_by_a_failure_of_that_delivery_only() -> None:
    """An older failure is a repeat, a newer one cannot be."""
    presumed = Row(State.PRESUMED, 2, 5)
    assert applied(presumed, Told(Event.FAILED_AGAIN, 1)) == presumed
    assert applied(presumed, Told(Event.FAILED_AGAIN, 3)) == presumed
    assert applied(presumed, Told(Event.FAILED_AGAIN, 2)) == replace(presumed, state=State.PENDING, revision=6)
