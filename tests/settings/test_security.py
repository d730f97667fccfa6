"""How the brokers let us in, as settings: wherever they come from, what does not fit is named as it was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from dlq_stream.cli import main
from dlq_stream.core.connection import Connection, Security
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.settings import Settings, load
from dlq_stream.settings.model import SECURITY_NAMES

HIDDEN = "h1dden-passw0rd"
SCRAM = {"security_protocol": "sasl_ssl", "sasl_mechanism": "scram-sha-256", "sasl_username": "ann"}


def test_every_field_of_security_is_a_setting() -> None:
    """And the other way round."""
    assert SECURITY_NAMES.keys() == Security.__dataclass_fields__.keys()
    assert set(SECURITY_NAMES.values()) <= Settings.model_fields.keys()


def test_without_any_it_is_plaintext() -> None:
    """As it always was."""
    assert load({"brokers": "a:1"}).connection == Connection(("a:1",))


def test_from_all_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Option, environment and file make one connection."""
    file = tmp_path / "s.toml"
    file.write_text(f'sasl_mechanism = "SCRAM-SHA-256"\nssl_cafile = "{tmp_path}/ca.pem"\n')
    monkeypatch.setenv("DLQ_SASL_PASSWORD", HIDDEN)
    options = {"config": str(file), "brokers": "a:1", "security_protocol": "SASL_SSL", "sasl_username": "ann"}
    expected = Security("SASL_SSL", "SCRAM-SHA-256", "ann", HIDDEN, cafile=tmp_path / "ca.pem")
    assert load(options).connection == Connection(("a:1",), expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"security_protocol": "tls"}, "security_protocol = 'TLS' (from option --security-protocol): "),
        (SCRAM, "sasl_password is missing; sasl_mechanism SCRAM-SHA-256 needs it (the default)"),
        ({"ssl_cafile": "ca.pem"}, "ssl_cafile = 'ca.pem': is not used with security_protocol PLAINTEXT"),
        (
            SCRAM | {"security_protocol": "SASL_PLAINTEXT", "sasl_password": HIDDEN},
            "security_protocol = 'SASL_PLAINTEXT': would send credentials over connections that anybody on the way can "
            "read and alter: use SASL_SSL, or allow it with sasl_without_tls (from option --security-protocol)",
        ),
        ({"sasl_password": 12345678}, "sasl_password = ********** (from option --sasl-password): "),
        ({"sasl_password": HIDDEN}, "sasl_password = '**********': is not used with security_protocol PLAINTEXT"),
    ],
)
def test_what_does_not_fit_is_named_as_a_setting(options: dict[str, object], said: str) -> None:
    """With where it came from, and without its secrets."""
    with pytest.raises(ConfigurationError) as caught:
        load(options)
    assert said in str(caught.value)
    assert "12345678" not in str(caught.value)
    assert HIDDEN not in f"{caught.value} {caught.value.__cause__}"


def test_secrets_are_nowhere_to_be_seen() -> None:
    """Neither in the settings' text nor in their JSON; only processes that are started get them."""
    settings = load(SCRAM | {"sasl_password": HIDDEN})
    assert (
        HIDDEN
        not in f"{settings!r} {settings} {settings.model_dump_json()} {json.dumps(settings.model_dump(), default=str)}"
    )
    variables = settings.security_variables()
    assert variables["DLQ_SASL_PASSWORD"] == HIDDEN
    assert variables.keys() == {"DLQ_SECURITY_PROTOCOL", "DLQ_SASL_MECHANISM", "DLQ_SASL_USERNAME", "DLQ_SASL_PASSWORD"}


def test_what_processes_are_given_is_the_same_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables, read back."""
    settings = load(SCRAM | {"brokers": "a:1", "sasl_password": HIDDEN, "sasl_without_tls": True})
    for name, value in settings.security_variables().items():
        monkeypatch.setenv(name, value)
    assert load({"brokers": "a:1"}).connection == settings.connection


def test_help_shows_no_secret_and_says_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other people see command lines."""
    monkeypatch.setenv("DLQ_SASL_PASSWORD", HIDDEN)
    said = " ".join(CliRunner().invoke(main, ["worker", "--help"]).output.split())
    assert HIDDEN not in said
    assert "Password of the user. Better in the environment or the settings file" in said
