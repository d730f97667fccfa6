"""Everything that can be set, in one place: option > environment (``DLQ_*``) > settings file (TOML) > default.

* `groups` holds the fields, one class per duty; the command line's options are generated from them.
* `queues` holds what a settings file may say per queue, and turns it into `dlq_stream.core.policy.RetryPolicy`.
* `model` joins the groups into `Settings`; `sources` reads the file; `load` turns what is wrong into one
  `ConfigurationError` that names field, value, what is allowed and where the value came from.
"""

from dlq_stream.settings.load import load, remarks
from dlq_stream.settings.model import Settings
from dlq_stream.settings.queues import QueueSettings, RuleSettings

__all__ = ["QueueSettings", "RuleSettings", "Settings", "load", "remarks"]
