"""Where a value comes from, what is accepted, and what people are told when it is not."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.settings import Settings, load, remarks
from dlq_stream.settings.groups import AGENT_GROUPS, GROUPS
from dlq_stream.settings.words import allowed_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def problems_of(options: dict[str, object]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(options)
    return str(caught.value)


def test_defaults_are_the_documented_ones() -> None:
    """Without anything set, the values are those of the documentation."""
    settings = load()
    assert settings.brokers == "localhost:9092"
    assert settings.app_id == "dlq-stream"
    assert settings.data_dir == Path("dlq-data")
    assert (settings.partitions, settings.web_port, settings.replication_factor) == (12, 6066, -1)
    assert (settings.max_retries, settings.initial_backoff_seconds, settings.backoff_multiplier) == (3, 60, 5)
    assert (settings.max_backoff_seconds, settings.outcome_timeout_seconds) == (3600, 3600)
    assert settings.standby_replicas == 0
    assert (settings.record_bytes_max, settings.retention_days, settings.wait_seconds) == (1_048_576, 30, 30)


def test_option_beats_environment_beats_file_beats_default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The four places are asked in the order of precedence, field by field."""
    file.write_text("partitions = 2\nmax_retries = 2\nweb_port = 2\n")
    monkeypatch.setenv("DLQ_CONFIG", str(file))
    monkeypatch.setenv("DLQ_PARTITIONS", "3")
    monkeypatch.setenv("DLQ_MAX_RETRIES", "3")
    settings = load({"partitions": "4", "app_id": None})
    assert (settings.partitions, settings.max_retries, settings.web_port) == (4, 3, 2)
    assert settings.app_id == "dlq-stream"


def test_the_option_names_another_file_than_the_environment(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--config beats DLQ_CONFIG."""
    file.write_text("partitions = 2")
    other = tmp_path / "other.toml"
    other.write_text("partitions = 5")
    monkeypatch.setenv("DLQ_CONFIG", str(file))
    assert load().partitions == 2
    assert load({"config": str(other)}).partitions == 5


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """``DLQ_X=`` in a compose file means the default."""
    monkeypatch.setenv("DLQ_PARTITIONS", "")
    assert load().partitions == 12


def test_lists_are_written_as_people_write_them(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers and topic patterns take commas in text and lists in the file."""
    monkeypatch.setenv("DLQ_ALLOWED_TOPICS", "heat-*, orders")
    file.write_text('brokers = ["a:1", "b:2"]')
    settings = load({"config": file})
    assert settings.allowed_topics == ("heat-*", "orders")
    assert settings.brokers == "a:1,b:2"


def test_retention_takes_fractions_of_days() -> None:
    """Half a day is 43,200,000 ms; nothing above zero becomes zero."""
    assert load({"retention_days": "0.5"}).retention_ms == 43_200_000
    assert load({"retention_days": "1e-12"}).retention_ms == 1


def test_every_problem_is_told_with_value_allowed_and_place(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One error lists all: field, value, what is allowed, and where the value came from."""
    file.write_text('max_retries = "many"\nweb_port = 6066\n')
    monkeypatch.setenv("DLQ_PARTITIONS", "0")
    text = problems_of({"config": str(file), "jitter": "some"})
    assert text.startswith("3 settings are wrong:")
    assert "partitions = '0' (from environment variable DLQ_PARTITIONS)" in text
    assert "whole number, 1 to 4096 (default 12)" in text
    assert f"max_retries = 'many' (from settings file {file})" in text
    assert "jitter = 'some' (from option --jitter)" in text
    assert "allowed: none, full, equal (default none)" in text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("app_id", "has spaces"),
        ("app_id", ".."),
        ("app_id", "__consumer"),
        ("app_id", "x" * 181),
        ("app_id", ""),
        ("brokers", ""),
        ("brokers", "host:"),
        ("brokers", ":9092"),
        ("brokers", "host:99999"),
        ("brokers", "host:٣"),
        ("partitions", "4097"),
        ("partitions", "1.5"),
        ("replication_factor", "0"),
        ("retention_days", "0"),
        ("retention_days", "nan"),
        ("retention_days", "inf"),
        ("max_retries", "-1"),
        ("backoff_multiplier", "0.5"),
        ("outcome_timeout_seconds", "0"),
        ("web_port", "65536"),
        ("standby_replicas", "-1"),
        ("instance_id", "a b"),
        ("allowed_topics", " , "),
        ("emit_to", "moon"),
        ("retry_topic", "{topic.__class__}"),
        ("retry_topic", "{topic}/x"),
        ("log_format", "xml"),
        ("wait_seconds", "-1"),
    ],
)
def test_values_out_of_bounds_are_refused_by_name(field: str, value: str) -> None:
    """Each is answered with the field's name and the option it came from."""
    text = problems_of({field: value})
    assert field in text
    assert f"option --{field.replace('_', '-')}" in text


def test_long_values_are_cut() -> None:
    """A megabyte in a variable does not become a megabyte on the screen."""
    assert len(problems_of({"partitions": "9" * 1_000_000})) < 500


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("partitons = 3", "partitons (from settings file {file}) is not a setting; did you mean 'partitions'?"),
        (
            "[queues.x]\nmax_retires = 3",
            "queues.x.max_retires (from settings file {file}) is not a setting; did you mean",
        ),
        ("zzzz = 1", "zzzz (from settings file {file}) is not a setting"),
        ("[queues.x.by_error.KeyError]\nmax_retrys = 1", "queues.x.by_error.KeyError.max_retrys"),
        ("queues = 3", "queues = 3"),
        ("x = ", "settings file {file}: not valid TOML"),
        ("\xff", "settings file {file}: not valid TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(file: Path, text: str, told: str) -> None:
    """Unknown keys are errors and name the nearest that exists; what is no TOML says so."""
    file.write_bytes(text.encode("latin-1"))
    assert told.format(file=file) in problems_of({"config": str(file)})


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A file that was named must be readable."""
    assert "No such file" in problems_of({"config": str(tmp_path / "none.toml")})
    assert "--config / DLQ_CONFIG" in problems_of({"config": str(tmp_path)})


def test_a_table_in_the_environment_must_be_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues may come from a variable as JSON; anything else is an error that names the field."""
    monkeypatch.setenv("DLQ_QUEUES", '{"a": {"max_retries": 9}}')
    assert load().policies().for_queue("a").max_retries == 9
    monkeypatch.setenv("DLQ_QUEUES", "{")
    assert "queues" in problems_of({})


def test_unknown_variables_are_remarked_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo in a variable's name is told with the nearest name; Kubernetes' and the launcher's are passed over."""
    monkeypatch.setenv("DLQ_PARTITON", "3")
    monkeypatch.setenv("DLQ_STREAM_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("DLQ_STREAM_PORT_6066_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("DLQ_KAFKA_HEAP", "512m")
    monkeypatch.setenv("DLQ_CONFIG", "")
    assert load().partitions == 12
    assert remarks() == ["environment variable DLQ_PARTITON sets nothing; did you mean 'DLQ_PARTITIONS'?"]


def test_every_field_says_what_it_is() -> None:
    """A setting without a description or without words for what it accepts is not finished."""
    for name, field in Settings.model_fields.items():
        assert field.description, name
    for group in (*GROUPS, *AGENT_GROUPS):
        for name, field in group.model_fields.items():
            assert allowed_of(field), name


def test_settings_are_values() -> None:
    """They are frozen; a changed copy is made, never changed in place."""
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.partitions = 3
    assert settings.model_copy(update={"partitions": 3}).partitions == 3


@given(st.dictionaries(st.sampled_from(sorted(Settings.model_fields)), st.text(max_size=20)))
def test_any_text_is_accepted_or_explained(options: dict[str, str]) -> None:
    """Whatever is typed, the answer is settings or a ConfigurationError, never anything else."""
    with contextlib.suppress(ConfigurationError):
        load(options)
