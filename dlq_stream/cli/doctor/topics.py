"""Whether the app's topics are as `dlq-stream init` leaves them: the very check that a worker makes before it joins."""

from __future__ import annotations

from dlq_stream.cli.doctor.finding import Finding, counted, halves, ok, warning, wrong
from dlq_stream.cli.doctor.patient import Patient
from dlq_stream.core.errors import ConfigurationError, UnsupportedFormat
from dlq_stream.topics import verify

_MORE_BROKERS = (
    "for anything but a try, run three brokers and give the topics three copies (kafka-reassign-partitions.sh)"
)
_SEE_README = "see README, Before production"


async def check(patient: Patient) -> list[Finding]:
    """A finding for each mismatch."""
    try:
        verified = await verify(patient.settings)
    except ConfigurationError as error:
        return [_mismatch(line) for line in str(error).splitlines()]
    except UnsupportedFormat as error:
        return [wrong("format", str(error), "upgrade dlq-stream here, and every worker")]
    count = counted(len(patient.topics.all), "topic")
    return [
        ok("topic", f"{count} of {patient.settings.app_id} are as they should be"),
        *(warning("copies", *halves(line, _MORE_BROKERS)) for line in verified.warnings),
    ]


def _mismatch(line: str) -> Finding:
    """``topic x: partitions is 2, expected 3; set ...`` is about a topic, what is wrong with it, and the fix."""
    kind, _, rest = line.partition(" ")
    subject = rest.partition(" ")[0].rstrip(":") if kind in ("topic", "changelog") else ""
    return wrong("topic", *halves(line, _SEE_README), subject)
