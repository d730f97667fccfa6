"""Where values come from: the settings file, and the names of the environment's variables."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.settings.groups import COMMAND_GROUPS

PREFIX = "DLQ_"
"""Of every environment variable of ours."""

CONFIG = "config"
"""The option and, with the prefix, the variable that names the settings file."""

_LAUNCHER = f"{PREFIX}KAFKA_"  # deploy/kafka/kafka has variables of its own
_SERVICE_LINK = re.compile(r"_(SERVICE_(HOST|PORT.*)|PORT(_\d+_(TCP|UDP).*)?)$")


def file_named(options: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Path | None:
    """The settings file that an option or the environment names; None where neither does."""
    named = options.get(CONFIG) or _upper(os.environ if environ is None else environ).get(f"{PREFIX}{CONFIG.upper()}")
    return Path(os.path.expanduser(named)) if named else None


def read_file(path: Path, what: str = "settings file", named_by: str = f"--config / {PREFIX}CONFIG") -> dict[str, Any]:
    """The content of a TOML file.  Raises ConfigurationError where it cannot be read or is not TOML."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # a ValueError is a path that cannot be one
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"{what} {path}: {reason}; {named_by} must name a readable file") from error
    try:
        return tomllib.loads(content.decode())
    except ValueError as error:
        raise ConfigurationError(f"{what} {path}: not valid TOML: {error}") from error


def option_of(field: str) -> str:
    """The command line's option for a field: ``--app-id``; a field of one command alone without that one's name."""
    command, _, name = field.partition("_")
    own = command in COMMAND_GROUPS and field in COMMAND_GROUPS[command].model_fields
    return f"--{(name if own else field).replace('_', '-')}"


def nearest(name: str, known: list[str]) -> str:
    """``; did you mean '...'?``, or nothing where nothing is near."""
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown_variables(fields: list[str], environ: Mapping[str, str]) -> list[str]:
    """A sentence for each ``DLQ_*`` variable that sets nothing.

    They are no errors: the environment is shared, and Kubernetes adds variables like ``DLQ_STREAM_SERVICE_HOST`` for a
    service of that name; those are passed over.
    """
    known = [f"{PREFIX}{field.upper()}" for field in [*fields, CONFIG]]
    return [
        f"environment variable {name} sets nothing{nearest(name, known)}"
        for name in sorted(_upper(environ))
        if name.startswith(PREFIX)
        and name not in known
        and not name.startswith(_LAUNCHER)
        and not _SERVICE_LINK.search(name)
    ]


def _upper(environ: Mapping[str, str]) -> dict[str, str]:
    return {name.upper(): value for name, value in environ.items()}


class FileSource(PydanticBaseSettingsSource):
    """The settings file as a source of pydantic-settings, below the environment and above the defaults."""

    def __init__(self, settings_class: type[BaseSettings], options: Mapping[str, Any]) -> None:
        super().__init__(settings_class)
        path = file_named(options)
        self._content = read_file(path) if path else {}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Part of pydantic-settings' protocol; a table of TOML needs no decoding."""
        return self._content.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """The file's content, unknown keys included: the model refuses them."""
        return self._content


class FromSources(BaseSettings):
    """Settings that are read where all of ours are: keyword arguments > environment > settings file > defaults."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True)  # DLQ_X= in a compose file: "not set"

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
