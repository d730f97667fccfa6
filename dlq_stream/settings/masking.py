"""What an agent's process is told to hide: the settings of masking alone.

A reporter lives in somebody else's process.  A setting of masking that is wrong must stop it; whatever else the
environment or the settings file say is not its business.
"""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.masking import Masking
from dlq_stream.settings.groups import MaskingSettings
from dlq_stream.settings.load import explain, source_of
from dlq_stream.settings.sources import PREFIX, FileSource


class _InForce(MaskingSettings, BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment, then the file that it names."""
        options = init_settings.init_kwargs if isinstance(init_settings, InitSettingsSource) else {}
        return env_settings, FileSource(settings_cls, options)


def masking_in_force() -> Masking:
    """What DLQ_MASK_HEADERS, DLQ_MASK_POINTERS and the settings file of DLQ_CONFIG say.  Raises ConfigurationError."""
    try:
        settings = _InForce()
    except ValidationError as error:
        raise ConfigurationError(explain(error, lambda location: source_of(location, {}))) from error
    return Masking(settings.mask_headers, settings.mask_pointers)
