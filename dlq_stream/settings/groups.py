"""The settings, grouped by duty.  A field's docstring is its help text: unit, bounds, and what happens at the bound.

Names carry their unit last.  Every field is an environment variable (``DLQ_`` and the name in capitals) and a key of
the settings file; the commands offer the groups they need as options.  Fields of one command alone begin with its name,
which their option leaves out: ``demo_seconds`` is ``--seconds`` and DLQ_DEMO_SECONDS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from dlq_stream.core.connection import connection_to
from dlq_stream.core.destinations import RETRY_TOPIC_TEMPLATE
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.masking import Masking, steps_of

TOPIC_NAME = r"^[A-Za-z0-9._-]+$"
"""What Kafka accepts as the name of a topic, a group or a group instance."""

APP_ID_CHARS_MAX = 180
"""Leaves room for ``-<table>-changelog`` within the 249 characters of a topic name."""


class Group(BaseModel):
    """Base of the groups: attribute docstrings are descriptions, unknown fields are errors."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid", frozen=True, validate_default=True)


def _separated(value: Any) -> Any:
    """Text as the parts between its commas; anything else as it is."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class ConnectionSettings(Group):
    """Which cluster, which app, and how patient to be."""

    brokers: str = "localhost:9092"
    """Addresses of Kafka brokers, host:port, separated by commas; one that answers is enough to find the others."""

    app_id: str = Field("dlq-stream", pattern=TOPIC_NAME, max_length=APP_ID_CHARS_MAX)
    """Name of this app: the prefix of its topics and its consumer group; one app id per cluster and purpose."""

    wait_seconds: float = Field(30.0, ge=0, le=86_400, allow_inf_nan=False)
    """Seconds to wait at the start for a broker that answers; after that the command ends with exit code 69."""

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How to talk to the brokers: SSL is TLS, SASL_ adds a user. Certificates and host names are always verified."""

    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    """How the user is proved, for SASL_SSL and SASL_PLAINTEXT."""

    sasl_username: str | None = None
    """Name of the user, for all mechanisms but OAUTHBEARER."""

    sasl_password: SecretStr | None = None
    """Password of the user. Better in the environment or the settings file: others see a command line."""

    sasl_token_provider: str | None = None
    """What makes tokens for OAUTHBEARER: import path package.module:name of a callable that returns one."""

    sasl_without_tls: bool = False
    """Allow SASL_PLAINTEXT, where everybody on the way can read and alter what is sent, passwords included."""

    ssl_cafile: Path | None = None
    """PEM file of the certificate authorities to trust; unset: the system's."""

    ssl_certfile: Path | None = None
    """PEM file of this client's certificate, with its chain, where brokers ask for one."""

    ssl_keyfile: Path | None = None
    """PEM file of the certificate's private key; unset: it is in ssl_certfile."""

    ssl_keypassword: SecretStr | None = None
    """Password of the private key. Better in the environment or the settings file: others see a command line."""

    @field_validator("security_protocol", "sasl_mechanism", mode="before")
    @classmethod
    def _upper_case(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("brokers", mode="before")
    @classmethod
    def _list_of_brokers(cls, value: Any) -> Any:
        return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value

    @field_validator("brokers")
    @classmethod
    def _addresses(cls, value: str) -> str:
        try:
            return str(connection_to(value))
        except ConfigurationError as error:
            raise ValueError(str(error).removeprefix("brokers: ")) from None

    @field_validator("app_id")
    @classmethod
    def _name_of_an_app(cls, value: str) -> str:
        if value in {".", ".."} or value.startswith("__"):
            raise ValueError("must not be '.' or '..' nor start with '__', which Kafka keeps for itself")
        return value


class TopicSettings(Group):
    """What ``init`` creates and a worker verifies."""

    partitions: int = Field(12, ge=1, le=4096)
    """Partitions of each of the app's topics; fixed for an app id, and the most workers that can share the work."""

    replication_factor: int = Field(-1, ge=-1, le=32_767)
    """Copies of each of the app's topics; -1 takes the brokers' default. With 1, losing a broker loses messages."""

    require_replication: int = Field(1, ge=1, le=32_767)
    """Refuse app topics with fewer copies than this (a check of what there is, 1 accepts everything with a warning)."""

    min_insync_replicas: int = Field(2, ge=1, le=32_767)
    """Copies that must have a record before it counts as written; at most one less than the replication factor."""

    record_bytes_max: int = Field(1_048_576, ge=1024, le=1_073_741_824)
    """Largest original record in bytes; app topics accept 64 KiB more, the quarantine 128 KiB more. Beyond: refused."""

    retention_days: float = Field(30.0, gt=0, le=36_500, allow_inf_nan=False)
    """Days (fractions allowed) that resolved and escalated messages are kept; open ones are never purged."""

    @field_validator("replication_factor")
    @classmethod
    def _some_copies(cls, value: int) -> int:
        if value == 0:
            raise ValueError("0 copies make no topic; -1 takes the brokers' default")
        return value


class RetrySettings(Group):
    """How often and when to retry where the queue says nothing else; see ``[queues."<name>"]`` in the settings file."""

    max_retries: int = Field(3, ge=0, le=10_000)
    """Retries of a message before it is given up; 0 escalates every failure at once."""

    initial_backoff_seconds: float = Field(60.0, ge=0, le=31_536_000, allow_inf_nan=False)
    """Seconds before the first retry."""

    backoff_multiplier: float = Field(5.0, ge=1, le=1000, allow_inf_nan=False)
    """Each further retry waits this many times longer than the one before, up to the maximum."""

    max_backoff_seconds: float = Field(3600.0, ge=0, le=31_536_000, allow_inf_nan=False)
    """Longest wait in seconds before a retry; longer computed waits are cut to it."""

    jitter: Literal["none", "full", "equal"] = "none"
    """Spread of the waits: none (exact), full (anything from 0 to the wait), equal (half the wait plus up to half)."""

    budget_seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Seconds from the first failure after which no further retry is scheduled (given up instead); unset: no limit."""

    outcome_timeout_seconds: float = Field(3600.0, gt=0, le=31_536_000, allow_inf_nan=False)
    """Seconds to wait for the outcome of a retry; then it failed, or is resolved if its consumer never reports any."""

    emit_to: Literal["source", "retry"] = "source"
    """Where retries go: the source topic, where all its consumer groups see them, or a retry topic."""

    retry_topic: str = Field(RETRY_TOPIC_TEMPLATE, min_length=1, max_length=249)
    """Name of the retry topic; {topic} and {group} are replaced by the message's."""

    write_compacted: bool = False
    """Also retry to topics with cleanup.policy=compact, where a retry makes an old value the latest of its key."""

    emit_per_second_max: float | None = Field(None, ge=0.001, le=1_000_000, allow_inf_nan=False)
    """Most retries of a queue per second, by all workers together; further ones that are due wait. Unset: no limit.
    Each partition has an equal share of it, so a queue of few messages may get less."""


class WorkerSettings(Group):
    """How one worker runs.  Nothing here changes what it does to a message."""

    data_dir: Path = Path("dlq-data")
    """Directory of the local state; a copy of what Kafka holds, rebuilt when missing. One worker per directory."""

    instance_id: str | None = Field(None, pattern=TOPIC_NAME, max_length=249)
    """Stable, unique name of this worker (a pod's in a StatefulSet): it restarts without a rebalance. Unset: none."""

    web_port: int = Field(6066, ge=0, le=65_535)
    """Port of the worker's web server, on the loopback interface; 0 picks a free one and logs it."""

    session_timeout_seconds: float = Field(10.0, ge=1, le=1800, allow_inf_nan=False)
    """Seconds after which a silent worker is dead and its partitions go to others (brokers allow 6 to 1800)."""

    transaction_timeout_seconds: float = Field(10.0, ge=1, le=900, allow_inf_nan=False)
    """Seconds after which brokers abort a dead worker's transaction; read_committed readers wait until then."""

    standby_replicas: int = Field(0, ge=0, le=100)
    """Copies of each partition's state that other workers keep warm, to take over at once; set it alike for all.
    No more are kept than there are other workers; each takes disk space, and work, like the partition's own state."""

    allowed_topics: Annotated[tuple[str, ...], NoDecode] = ("*",)
    """Original topics that may be written to, as patterns (* and ?) separated by commas; others are quarantined."""

    poll_records_max: int = Field(2000, ge=1, le=1_000_000)
    """Most records of one poll; what does not fit is taken by the next."""

    buffer_bytes_max: int = Field(64 * 1024 * 1024, ge=1024 * 1024)
    """Bytes of input that a worker holds: half of it waits or is processed, one fetch of a broker brings a quarter.
    A partition with a whole batch waiting, and at the bound every partition with anything, is not fetched for.
    What senders compressed counts unfolded; a fetch of it may exceed the bound by 32 MiB and a batch a partition."""

    batch_bytes_max: int = Field(4 * 1024 * 1024, ge=64 * 1024)
    """Most bytes of events in one transaction; a single event always fits."""

    batch_hold_ms_target: int = Field(10, ge=1, le=10_000)
    """Milliseconds that a batch should hold the event loop at a time: it is processed in steps of about that.

    Of processor time; by the clock it is twice that where brokers share the processors."""

    emit_records_max: int = Field(1000, ge=1, le=1_000_000)
    """Most retries emitted in one transaction; the rest follows in the next."""

    emit_bytes_max: int = Field(4 * 1024 * 1024, ge=64 * 1024)
    """Most bytes of retries emitted in one transaction; a single record always fits."""

    retain_steps_max: int = Field(200, ge=1, le=1_000_000)
    """Most messages purged in one transaction, so that retention never stalls a partition."""

    queues_max: int = Field(1000, ge=1, le=1_000_000)
    """Most queues with statistics of their own per partition; further ones are counted together as "other"."""

    attempts_kept_max: int = Field(16, ge=1, le=10_000)
    """Most attempts kept per message; the first always is, the oldest of the others make room."""

    untested_versions: bool = False
    """Start with versions of faust-streaming, aiokafka and mode that this release was not tested with."""

    @field_validator("allowed_topics", mode="before")
    @classmethod
    def _patterns(cls, value: Any) -> Any:
        return _separated(value)

    @field_validator("allowed_topics")
    @classmethod
    def _some_pattern(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("allows no topic at all; '*' allows every one")
        return value


class LogSettings(Group):
    """What is said, and how.  Payloads, keys and header values are never logged."""

    log_format: Literal["text", "json"] = "text"
    """Log lines as text for people or as one JSON object each."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value


class MaskingSettings(Group):
    """What is hidden: by an agent before a failure report leaves its process, and by ``show`` on the screen.

    A retry is what was reported: what an agent hides is gone for its handler, too, when the retry arrives.
    """

    mask_headers: Annotated[tuple[str, ...], NoDecode] = ()
    """Headers whose values are hidden, as patterns (* and ?) of names in any case, separated by commas.

    An agent with this setting reports "***" in their place, and retries carry that."""

    mask_pointers: Annotated[tuple[str, ...], NoDecode] = ()
    """Parts of a JSON payload that are hidden, as JSON pointers such as /card/number, separated by commas.

    An agent with this setting reports "***" in their place, and retries carry that; payloads that are no JSON are
    hidden whole."""

    @property
    def masking(self) -> Masking:
        """The two as what hides."""
        return Masking(self.mask_headers, self.mask_pointers)

    @field_validator("mask_headers", "mask_pointers", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return _separated(value)

    @field_validator("mask_pointers")
    @classmethod
    def _json_pointers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pointer in value:
            try:
                steps_of(pointer)
            except ConfigurationError as wrong:
                raise ValueError(str(wrong).removeprefix("mask_pointers: ")) from None
        return value


class InitSettings(Group):
    """What ``init`` looks at besides the app's own topics."""

    init_source: Annotated[tuple[str, ...], NoDecode] = ()
    """Source topics to check, separated by commas: who else reads them, and what their failures need."""

    init_print_acls: bool = False
    """Print the rights that each role needs, as a table and as kafka-acls.sh commands, and do nothing else."""

    @field_validator("init_source", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return _separated(value)


class StatusSettings(Group):
    """How ``status`` shows the numbers."""

    status_json: bool = False
    """Print one JSON object, with stable names, instead of a table."""


class DoctorSettings(Group):
    """What ``doctor`` looks at, and for how long."""

    doctor_json: bool = False
    """Print one JSON object, with stable names, instead of text."""

    doctor_source: Annotated[tuple[str, ...], NoDecode] = ()
    """Source topics to look at for open transactions, separated by commas; those named like a queue are, anyway."""

    doctor_role: Literal["init", "worker", "agent", "operator"] | None = None
    """The role whose rights this user should have; unset: those of any one will do."""

    doctor_seconds: float = Field(15.0, gt=0, le=600, allow_inf_nan=False)
    """Seconds that each check may take; one that takes longer is a finding."""

    doctor_held_seconds: float = Field(10.0, ge=0, le=900, allow_inf_nan=False)
    """Seconds for which an open transaction may hold readers back; what is open for longer is wrong."""

    @field_validator("doctor_source", mode="before")
    @classmethod
    def _names_of_sources(cls, value: Any) -> Any:
        return _separated(value)


class DemoSettings(Group):
    """How long and how fast the demo runs, and for whom."""

    demo_seconds: float = Field(60.0, gt=0, le=3600, allow_inf_nan=False)
    """Seconds of production; draining what is open then takes a little longer."""

    demo_rate: float = Field(50.0, gt=0, le=5000, allow_inf_nan=False)
    """Events per second."""

    demo_seed: int | None = Field(None, ge=0)
    """Seed of the events and errors; the same seed gives the same run. Unset: a new one, which the end names."""

    demo_tty: bool = True
    """Show a screen where standard output is a terminal; without one, kill a worker at half-time, and end with JSON."""


GROUPS: tuple[type[Group], ...] = (ConnectionSettings, TopicSettings, RetrySettings, WorkerSettings, LogSettings)
"""The groups that a worker goes by, in the order in which help texts show them."""

AGENT_GROUPS: tuple[type[Group], ...] = (MaskingSettings,)
"""The groups that an agent's reporter goes by, and commands that show what was reported, but no worker."""

COMMAND_GROUPS: dict[str, type[Group]] = {
    "init": InitSettings,
    "status": StatusSettings,
    "doctor": DoctorSettings,
    "demo": DemoSettings,
}
"""The groups that one command alone goes by; their fields begin with its name."""
