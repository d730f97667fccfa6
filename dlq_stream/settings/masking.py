"""What an agent's process is told to hide: the settings of masking alone.

A reporter lives in somebody else's process.  A setting of masking that is wrong must stop it; whatever else the
environment or the settings file say is not its business.
"""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.masking import Masking
from dlq_stream.settings.groups import MaskingSettings
from dlq_stream.settings.load import explain, source_of
from dlq_stream.settings.sources import FromSources


class _InForce(FromSources, MaskingSettings):
    model_config = SettingsConfigDict(extra="ignore")


def masking_in_force() -> Masking:
    """What DLQ_MASK_HEADERS, DLQ_MASK_POINTERS and the settings file of DLQ_CONFIG say.  Raises ConfigurationError."""
    try:
        settings = _InForce()
    except ValidationError as error:
        raise ConfigurationError(explain(error, lambda location: source_of(location, {}))) from error
    return settings.masking
