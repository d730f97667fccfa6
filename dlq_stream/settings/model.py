"""All settings of the project as one immutable value."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from dlq_stream.core.policy import Policies
from dlq_stream.settings.groups import (
    ConnectionSettings,
    DemoSettings,
    InitSettings,
    LogSettings,
    MaskingSettings,
    RetrySettings,
    StatusSettings,
    TopicSettings,
    WorkerSettings,
)
from dlq_stream.settings.queues import BackoffSettings, QueueSettings, RuleSettings, policies_of
from dlq_stream.settings.sources import PREFIX, FileSource

DAY_MS = 86_400_000


class Settings(
    ConnectionSettings,
    TopicSettings,
    RetrySettings,
    WorkerSettings,
    LogSettings,
    MaskingSettings,
    InitSettings,
    StatusSettings,
    DemoSettings,
    BaseSettings,
):
    """What is set, wherever it was: keyword arguments > environment > settings file > defaults.

    Raises pydantic's ValidationError; `dlq_stream.settings.load` says the same in words for people.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,  # DLQ_X= in a compose file means "not set"
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    config: Path | None = None
    """Settings file (TOML) with any of these settings and tables [queues."<name>"] for single queues."""

    queues: dict[str, QueueSettings] = {}
    """Retry settings by queue."""

    rules: tuple[RuleSettings, ...] = ()
    """Classification rules of all queues, asked after a queue's own and before the built-in ones."""

    by_error: dict[str, BackoffSettings] = {}
    """Exceptions for one error type or category, for all queues."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options first, then the environment, then the file that either of them names."""
        options = init_settings.init_kwargs if isinstance(init_settings, InitSettingsSource) else {}
        return init_settings, env_settings, FileSource(settings_cls, options)

    def policies(self) -> Policies:
        """The retry policies: the default, and one for each queue that the file names."""
        defaults = self.model_dump(include=set(RetrySettings.model_fields))
        return policies_of(defaults, self.rules, self.by_error, self.queues)

    @property
    def retention_ms(self) -> int:
        """How long closed messages are kept, in milliseconds; at least 1."""
        return max(1, round(self.retention_days * DAY_MS))
