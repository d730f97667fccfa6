"""Order per key, and what may be committed: pure parts of the consumer, against plain models of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.client.lanes import Lanes
from dlq_stream.client.progress import Progress

KEYS = st.sampled_from(["a", "b", "c", None])


@given(st.lists(KEYS, max_size=40), st.data())
def test_one_of_a_key_at_a_time_in_order(keys: list[str | None], data: st.DataObject) -> None:
    """Whoever ends when: all begin once, those of a key in order, never two at a time; and nothing is remembered."""
    lanes: Lanes[int] = Lanes()
    running: dict[int, str | None] = {}
    began: list[int] = []
    waiting = list(enumerate(keys))

    def begin(number: int) -> None:
        key = keys[number]
        assert key is None or key not in running.values()
        running[number] = key
        began.append(number)

    while waiting or running:
        if waiting and (not running or data.draw(st.booleans())):
            number, key = waiting.pop(0)
            if lanes.enter(key, number):
                begin(number)
        else:
            ended = data.draw(st.sampled_from(sorted(running)))
            following = lanes.leave(running.pop(ended))
            if following is not None:
                begin(following)
    assert sorted(began) == list(range(len(keys)))
    for key in ("a", "b", "c"):
        assert [number for number in began if keys[number] == key] == [n for n, each in enumerate(keys) if each == key]
    assert len(lanes) == 0


def test_what_waits_is_forgotten_and_what_runs_is_not_overtaken() -> None:
    """As when a partition is taken away and comes back while a handler still runs."""
    lanes: Lanes[str] = Lanes()
    assert lanes.enter("key", "running")
    assert not lanes.enter("key", "dropped")
    lanes.forget_waiting()
    assert not lanes.enter("key", "comes again")
    assert lanes.leave("key") == "comes again"
    assert lanes.leave("key") is None
    with pytest.raises(KeyError):
        lanes.leave("key")


@given(st.lists(st.integers(1, 4), max_size=40), st.data())
def test_nothing_unfinished_is_ever_passed(gaps: list[int], data: st.DataObject) -> None:
    """What may be committed is the oldest unfinished offset; where there is none, where reading goes on."""
    progress = Progress()
    assert progress.committable() is None
    progress.position = 0
    unfinished: list[int] = []
    span: list[int] = []
    while gaps or unfinished:
        if gaps and (not unfinished or data.draw(st.booleans())):
            offset = progress.position + gaps.pop() - 1
            progress.begin(offset)
            progress.position = offset + 1
            unfinished.append(offset)
            span.append(offset)
        else:
            offset = data.draw(st.sampled_from(unfinished))
            progress.finish(offset)
            unfinished.remove(offset)
            span = [each for each in span if unfinished and each >= unfinished[0]]
        assert progress.committable() == min(unfinished, default=progress.position)
        assert (progress.unfinished, progress.span) == (len(unfinished), len(span))
