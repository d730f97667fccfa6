"""The catalogue of events: complete, and a sentence each."""

from __future__ import annotations

import inspect
from typing import get_args

from dlq_stream.core import events


def test_the_catalogue_lists_every_event_with_a_sentence() -> None:
    """A type that is not listed would be heard by nobody; one without a sentence means nothing to anybody."""
    defined = {each for each in vars(events).values() if inspect.isclass(each) and each.__module__ == events.__name__}
    assert set(get_args(events.Happening)) == defined
    for each in defined:
        assert (each.__doc__ or "").endswith(".")
        assert each.__annotations__
