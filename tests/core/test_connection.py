"""What a connection may be made of, and what is said of what does not fit."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.connection import (
    BY_PASSWORD,
    MECHANISMS,
    PROTOCOLS,
    Connection,
    InsecureOrInconsistent,
    Secret,
    Security,
    connection_to,
)
from dlq_stream.core.errors import ConfigurationError

HIDDEN = "h1dden-passw0rd"
SCRAM = Security("SASL_SSL", "SCRAM-SHA-512", "ann", HIDDEN, certfile="c.pem", keypassword=HIDDEN)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"protocol": "TLS"}, "protocol = 'TLS': is not one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        ({"protocol": "SASL_SSL", "mechanism": "GSSAPI"}, "mechanism = 'GSSAPI': is not one of PLAIN, SCRAM-SHA-256,"),
        ({"protocol": "SASL_SSL"}, "mechanism is missing; protocol SASL_SSL needs one: PLAIN, "),
        ({"protocol": "SASL_SSL", "mechanism": "PLAIN"}, "username is missing; mechanism PLAIN needs it"),
        (
            {"protocol": "SASL_SSL", "mechanism": "PLAIN", "username": "ann"},
            "password is missing; mechanism PLAIN needs it",
        ),
        (
            {"protocol": "SASL_SSL", "mechanism": "PLAIN", "username": "ann", "password": ""},
            "password is missing; mechanism PLAIN needs it",
        ),
        (
            {"protocol": "SASL_SSL", "mechanism": "OAUTHBEARER"},
            "token_provider is missing; mechanism OAUTHBEARER needs it",
        ),
        (
            {"protocol": "SASL_SSL", "mechanism": "OAUTHBEARER", "token_provider": "my/token.py"},
            "token_provider = 'my/token.py': is not an import path; write package.module:name",
        ),
        (
            {"protocol": "SASL_SSL", "mechanism": "OAUTHBEARER", "token_provider": "m:t", "password": HIDDEN},
            "password = '**********': mechanism OAUTHBEARER does not take it: leave it out, or change that",
        ),
        (
            {"protocol": "SASL_PLAINTEXT", "mechanism": "PLAIN", "username": "ann", "password": HIDDEN},
            "use SASL_SSL, or allow it with allow_sasl_without_tls",
        ),
        (
            {"password": HIDDEN},
            "password = '**********': is not used with protocol PLAINTEXT: set protocol to SASL_SSL",
        ),
        ({"cafile": "/ca.pem"}, "cafile = '/ca.pem': is not used with protocol PLAINTEXT: set protocol to SSL"),
        ({"protocol": "SSL", "username": "{0}"}, "username = '{0}': is not used with protocol SSL"),
        ({"protocol": "SSL", "keyfile": "k"}, "keyfile = 'k': belongs to a client certificate: set certfile"),
        ({"protocol": "SSL", "keypassword": HIDDEN}, "keypassword = '**********': belongs to a client certificate"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, str], said: str) -> None:
    """With the field, its value unless it is a secret, and the fix."""
    with pytest.raises(InsecureOrInconsistent) as caught:
        Security(**fields)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert HIDDEN not in str(caught.value)


def test_sasl_without_tls_can_be_allowed() -> None:
    """By the one field that says so; then certificates are of no use."""
    allowed = Security("SASL_PLAINTEXT", "PLAIN", "ann", HIDDEN, allow_sasl_without_tls=True)
    assert (allowed.uses_sasl, allowed.uses_tls) == (True, False)
    with pytest.raises(InsecureOrInconsistent, match=r"cafile = .ca.pem.: is not used .* set protocol to SASL_SSL"):
        replace(allowed, cafile="ca.pem")


def test_an_error_speaks_the_reader_s_names() -> None:
    """Settings have other names for the same fields."""
    with pytest.raises(InsecureOrInconsistent) as caught:
        Security("SASL_SSL", "PLAIN")
    names = {"username": "sasl_username", "mechanism": "sasl_mechanism"}
    assert str(caught.value.named(names)) == "sasl_username is missing; sasl_mechanism PLAIN needs it"


def test_secrets_are_nowhere_to_be_seen() -> None:
    """Neither printed nor formatted nor in what json makes of the fields; but they can be asked for."""
    connection = Connection(("a:1",), SCRAM)
    shown = f"{connection!r} {connection} {SCRAM} {SCRAM.password} {json.dumps(asdict(connection), default=repr)}"
    assert HIDDEN not in shown
    assert "ann" in shown
    assert isinstance(SCRAM.password, Secret)
    assert SCRAM.password.reveal() == HIDDEN
    assert pickle.loads(pickle.dumps(SCRAM)) == SCRAM
    assert hash(SCRAM) == hash(replace(SCRAM))


@given(st.sampled_from(PROTOCOLS), st.sampled_from([None, *MECHANISMS]), st.sets(st.sampled_from(range(7))))
def test_everything_is_usable_or_refused(protocol: str, mechanism: str | None, chosen: set[int]) -> None:
    """Whatever is combined: what is accepted has all that its mechanism needs, and nothing in the clear unasked."""
    names = ("username", "password", "token_provider", "cafile", "certfile", "keyfile", "keypassword")
    given_ = {names[number]: "a.b:c" for number in chosen}
    try:
        security = Security(protocol, mechanism, **given_)  # type: ignore[arg-type]
    except InsecureOrInconsistent:
        return
    assert protocol != "SASL_PLAINTEXT"
    assert security.uses_sasl == (mechanism is not None)
    assert ({"username", "password"} <= given_.keys()) == (mechanism in BY_PASSWORD)
    assert ("token_provider" in given_) == (mechanism == "OAUTHBEARER")


@pytest.mark.parametrize("brokers", ["a:1, b:2 ,", ["a:1", " b:2"], Connection(("a:1", "b:2"))])
def test_addresses_are_taken_in_any_form(brokers: str | list[str] | Connection) -> None:
    """As text, as a list, or as a connection, which stays what it is."""
    assert connection_to(brokers) == Connection(("a:1", "b:2"))
    assert str(connection_to(brokers)) == "a:1,b:2"


@pytest.mark.parametrize(
    ("brokers", "said"),
    [(" ,", "names no broker"), ("a:1,b:x", "'b:x' is not host:port"), (":9", "':9' is not"), ("a:0", "'a:0' is not")],
)
def test_what_is_no_address_is_named(brokers: str, said: str) -> None:
    """Before anybody tries to connect."""
    with pytest.raises(ConfigurationError, match=said):
        connection_to(brokers)


def test_two_securities_are_one_too_many() -> None:
    """A connection says itself how to be let in; saying the same again is no contradiction."""
    connection = connection_to("a:1", SCRAM)
    assert connection_to(connection, SCRAM) is connection
    with pytest.raises(ConfigurationError, match="give one of them"):
        connection_to(connection, Security())
