"""All settings of the project as one immutable value."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from dlq_stream.core.connection import Connection, InsecureOrInconsistent, Secret, Security, connection_to
from dlq_stream.core.policy import Policies
from dlq_stream.settings.groups import (
    ConnectionSettings,
    DemoSettings,
    DoctorSettings,
    InitSettings,
    LogSettings,
    MaskingSettings,
    RetrySettings,
    StatusSettings,
    TopicSettings,
    WorkerSettings,
)
from dlq_stream.settings.queues import BackoffSettings, QueueSettings, RuleSettings, policies_of
from dlq_stream.settings.sources import PREFIX, FromSources

DAY_MS = 86_400_000

SECURITY_NAMES: Final = {
    "protocol": "security_protocol",
    "mechanism": "sasl_mechanism",
    "username": "sasl_username",
    "password": "sasl_password",
    "token_provider": "sasl_token_provider",
    "allow_sasl_without_tls": "sasl_without_tls",
    "cafile": "ssl_cafile",
    "certfile": "ssl_certfile",
    "keyfile": "ssl_keyfile",
    "keypassword": "ssl_keypassword",
}
"""The fields of `Security` and the settings that they are."""


class Settings(
    FromSources,
    ConnectionSettings,
    TopicSettings,
    RetrySettings,
    WorkerSettings,
    LogSettings,
    MaskingSettings,
    InitSettings,
    StatusSettings,
    DoctorSettings,
    DemoSettings,
):
    """What is set, wherever it was: keyword arguments > environment > settings file > defaults.

    Raises pydantic's ValidationError; `dlq_stream.settings.load` says the same in words for people.
    """

    model_config = SettingsConfigDict(extra="forbid")

    config: Path | None = None
    """Settings file (TOML) with any of these settings and tables [queues."<name>"] for single queues."""

    queues: dict[str, QueueSettings] = Field(default_factory=dict)
    """Retry settings by queue."""

    rules: tuple[RuleSettings, ...] = ()
    """Classification rules of all queues, asked after a queue's own and before the built-in ones."""

    by_error: dict[str, BackoffSettings] = Field(default_factory=dict)
    """Exceptions for one error type or category, for all queues."""

    def policies(self) -> Policies:
        """The retry policies: the default, and one for each queue that the file names."""
        defaults = self.model_dump(include=set(RetrySettings.model_fields))
        return policies_of(defaults, self.rules, self.by_error, self.queues)

    @property
    def connection(self) -> Connection:
        """The cluster and how to be let in: what every client is made from.

        Raises `InsecureOrInconsistent`, in the names of the settings.
        """
        given = {field: _plain(getattr(self, name)) for field, name in SECURITY_NAMES.items()}
        try:
            return connection_to(self.brokers, Security(**given))
        except InsecureOrInconsistent as error:
            raise error.named(SECURITY_NAMES) from None

    def security_variables(self) -> dict[str, str]:
        """How the brokers let us in, as environment variables for processes that are started; secrets included."""
        values = {name: getattr(self, name) for name in SECURITY_NAMES.values()}
        return {
            f"{PREFIX}{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values.items()
            if value
        }

    @property
    def retention_ms(self) -> int:
        """How long closed messages are kept, in milliseconds; at least 1."""
        return max(1, round(self.retention_days * DAY_MS))


def _plain(value: Any) -> Any:
    """Secrets of pydantic's as ours."""
    return Secret(value.get_secret_value()) if isinstance(value, SecretStr) else value
