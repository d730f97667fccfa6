"""How a worker ends where something went wrong while it ran."""

from __future__ import annotations

from typing import NoReturn

import pytest
from aiokafka.errors import GroupAuthorizationFailedError

from dlq_stream.core.errors import ConfigurationError, DLQError, NotAllowed
from dlq_stream.worker import assembly


class Refused(Exception):
    """Ended with the code for what no restart cures."""


class Crashed(Exception):
    """Ended with the code for what a restart cures."""


def refuse(error: DLQError) -> NoReturn:
    raise Refused(error)


def crash(where: str, error: BaseException) -> NoReturn:
    raise Crashed(where, error)


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (NotAllowed("Write", "topic", "t"), Refused),
        (ConfigurationError("topic t is no changelog"), Refused),
        (GroupAuthorizationFailedError("g"), Refused),
        (RuntimeError("odd"), Crashed),
        (DLQError("odd"), Crashed),
    ],
)
def test_what_somebody_has_to_mend_is_refused(
    error: Exception, ends: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right or a setting: starting again changes nothing.  Everything else is crash-only."""
    monkeypatch.setattr(assembly, "crash", crash)
    with pytest.raises(ends) as caught:
        assembly.refuse_or_crash(refuse)("turn of partition 2", error)
    if isinstance(error, GroupAuthorizationFailedError):
        assert str(caught.value).startswith("not allowed: Read on group g;")
