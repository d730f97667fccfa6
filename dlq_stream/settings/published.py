"""Policies that operators publish while workers run: one record per queue in the topic ``{app}-policies``.

Key: the queue's name in UTF-8.  Value: JSON, ``{"format": 1, "policy": {"max_retries": 10}}``, where ``policy`` holds
what the queue's table in a settings file may hold, with the same names and units.  A tombstone ends it: the queue goes
by the settings again.

*A published policy says what differs from the settings, field by field*, just as a queue's table says what differs from
the top level of the file: published > ``[queues."x"]`` > top level.  It does not replace the table as a whole: whoever
types ``policy set heat-processing --max-retries 10`` at night means that one figure, and must not switch off the rules
of classification which somebody else once wrote down for the queue.  So rules that are published are asked before the
file's, and exceptions by error take the place of those for the same error.

*A record that cannot be understood counts as none*: the queue goes by the settings.  Not by the record before it, which
a worker that starts later cannot read any more (the topic is compacted): all workers have to decide alike.

Pure: who reads and writes the topic is `dlq_stream.topics.policies`, and the agents' own reader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from dlq_stream.core import header_values
from dlq_stream.core.errors import ConfigurationError, MalformedEvent
from dlq_stream.core.policy import Policies, RetryPolicy
from dlq_stream.core.shown import shown
from dlq_stream.settings.load import explain
from dlq_stream.settings.queues import QueueSettings

FORMAT = 1
"""Of the records that this version writes, and the only one that it reads."""

policy_bytes_max = 262_144
"""A longer record is not understood, and never written: a thousand rules of usual length fit."""

policies_max = 10_000
"""So many queues can have a policy of their own published; further ones go by the settings, and that is said."""

problem_chars_max = 2_000
"""What is said of a record that is not understood is cut here: there may be a mistake in each of its fields."""

Check = Callable[[RetryPolicy], object]
"""Raises `ConfigurationError` for a policy that cannot be used where it was read, such as a regex without an engine."""


class _Envelope(BaseModel):
    """What every format has, now and later."""

    model_config = ConfigDict(strict=True)

    format: int
    policy: dict[str, Any] = {}


def encode(queue: str, policy: QueueSettings) -> tuple[bytes, bytes]:
    """Key and value of a record.  Raises `ConfigurationError` where `decode_key` or `decode` would not take it."""
    content = policy.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    key, value = encode_key(queue), to_json({"format": FORMAT, "policy": content})
    decode(queue, value)
    return key, value


def encode_key(queue: str) -> bytes:
    """The key of a queue's records.  Raises `ConfigurationError` where failures could not name such a queue."""
    key = queue.encode("utf-8", "surrogatepass")
    decode_key(key)
    return key


def decode_key(key: bytes | None) -> str:
    """The queue that a record is about.  Raises `ConfigurationError` where failures could not name such a queue."""
    try:
        return header_values.queue("queue", key or b"")
    except MalformedEvent as error:
        raise ConfigurationError(str(error)) from None


def decode(queue: str, value: bytes) -> QueueSettings:
    """What a record says about ``queue``.

    Raises `ConfigurationError` that names the field, its value and what is allowed, or the format that is not known.
    """
    if len(value) > policy_bytes_max:
        raise ConfigurationError(f"{_name(queue)}: {len(value)} bytes, at most {policy_bytes_max} are allowed")
    try:
        envelope = _Envelope.model_validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f".{part}" for part in first["loc"])
        raise ConfigurationError(f"{_name(queue)}{where}: not a published policy: {first['msg']}") from None
    if envelope.format != FORMAT:
        raise ConfigurationError(
            f"{_name(queue)}: published in format {envelope.format}, this version of dlq-stream reads {FORMAT}: "
            f"upgrade it, or publish the policy anew with this version"
        )
    return checked(queue, envelope.policy)


def checked(
    queue: str, fields: dict[str, Any], source: Callable[[str], str] = lambda field: "published"
) -> QueueSettings:
    """The policy that these fields make; ``source`` says where a field's value is from.

    Raises `ConfigurationError` like `decode`.
    """
    try:
        return QueueSettings.model_validate(fields)
    except ValidationError as error:
        at = ("queues", queue)
        raise ConfigurationError(explain(error, lambda location: source(str(location[len(at)])), at)) from None


class PublishedPolicies:
    """The policies topic read record by record, on top of the policies that the settings make (``base``)."""

    def __init__(self, base: Policies, check: Check | None = None) -> None:
        self._base = base
        self._check = check
        self._merged: dict[str, RetryPolicy] = {}
        self.queues: dict[str, QueueSettings] = {}
        """What is published, by queue."""
        self.problems: dict[str, str] = {}
        """Why a record counts as none, by queue; the key as bytes are written where it is no name of a queue."""

    @property
    def policies(self) -> Policies:
        """What holds now: a value of its own, which later records do not change."""
        return Policies(self._base.default, {**self._base.by_queue, **self._merged})

    def take(self, key: bytes | None, value: bytes | None) -> str:
        """The next record; returns the queue that it is about, as people read it.  Raises nothing.

        Records of a queue have to be taken in their order.
        """
        try:
            queue = decode_key(key)
        except ConfigurationError as error:
            name = shown(key)  # which may read like a queue's name: that one's policy is left alone
            self._not_understood(name, value, str(error))
            return name
        self._forget(queue)
        try:
            if value is not None:
                self._put(queue, decode(queue, value))
        except ConfigurationError as error:
            self._not_understood(queue, value, str(error))
        except Exception as error:  # every worker reads it, whenever it starts: it must not end them all
            self._not_understood(queue, value, f"{_name(queue)}: {type(error).__name__}: {error}")
        return queue

    def _not_understood(self, name: str, value: bytes | None, problem: str) -> None:
        self.problems.pop(name, None)
        if value is not None and len(self.problems) < policies_max:
            self.problems[name] = problem if len(problem) <= problem_chars_max else f"{problem[:problem_chars_max]} ..."

    def _put(self, queue: str, own: QueueSettings) -> None:
        if len(self.queues) >= policies_max:
            raise ConfigurationError(f"{_name(queue)}: {policies_max} policies are published, more are not read")
        try:
            merged = own.policy(self._base.for_queue(queue))
            if self._check is not None:
                self._check(merged)
        except ConfigurationError as error:
            raise ConfigurationError(f"{_name(queue)}.{error}") from error
        self.queues[queue], self._merged[queue] = own, merged

    def _forget(self, name: str) -> None:
        self.queues.pop(name, None)
        self._merged.pop(name, None)
        self.problems.pop(name, None)


def _name(queue: str) -> str:
    return f'queues."{queue}"'
