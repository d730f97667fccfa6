"""What happens to a batch: functions of one `Transaction`, an `Engine` context and the batch.

They stage and return; they await nothing, read no clock and log nothing, and may be called again for the same batch on
a new transaction.  What they saw is told to `Engine.observe` after the commit.
"""

from dlq_stream.engine.commands import apply_commands
from dlq_stream.engine.context import EmitResult, Engine
from dlq_stream.engine.emit import emit_due
from dlq_stream.engine.failures import apply_failures
from dlq_stream.engine.retain import retain

__all__ = ["EmitResult", "Engine", "apply_commands", "apply_failures", "emit_due", "retain"]
