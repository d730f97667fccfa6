"""A connection as options of aiokafka: certificates that cannot be used, and token providers of all kinds."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from dlq_stream.core.connection import Security, connection_to
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.kafka_security import client_options, refusal_of, ssl_context_of, token_provider_of
from tests.integration import tokens

TOKENS = "tests.integration.tokens"


def by_token(name: str) -> Security:
    return Security("SASL_SSL", "OAUTHBEARER", token_provider=f"{TOKENS}:{name}")


def test_plaintext_asks_for_nothing() -> None:
    """Addresses, as before."""
    expected = {"bootstrap_servers": ["a:1", "b:2"], "security_protocol": "PLAINTEXT", "ssl_context": None}
    assert client_options("a:1,b:2") == expected


def test_a_password_goes_to_aiokafka_and_tls_verifies() -> None:
    """Host names included."""
    options = client_options(connection_to("a:1", Security("SASL_SSL", "SCRAM-SHA-512", "ann", "h1dden")))
    assert (options["sasl_mechanism"], options["sasl_plain_username"]) == ("SCRAM-SHA-512", "ann")
    assert options["sasl_plain_password"] == "h1dden"
    context = options["ssl_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize("name", ["token", "later", "Provider"])
async def test_token_providers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function, a coroutine function and a class of aiokafka's."""
    monkeypatch.setenv(tokens.USER, "ann")
    provider = client_options("a:1", by_token(name))["sasl_oauth_token_provider"]
    assert isinstance(provider, AbstractTokenProvider)
    assert (await provider.token()).count(".") == 2
    assert provider.extensions() == ({"tenant": "furnaces"} if name == "Provider" else {})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", f"token provider {TOKENS}:broken raised ConnectionError: no token today"),
        ("nothing", f"token provider {TOKENS}:nothing returned an empty text, not a token"),
        ("time.time", f"token provider {TOKENS}:time.time returned float, not a token"),
    ],
)
async def test_a_token_that_does_not_come_is_a_connection_that_does_not(name: str, said: str) -> None:
    """aiokafka tries again then, as for brokers that are away; another error would end its loops."""
    with pytest.raises(KafkaConnectionError, match=said):
        await token_provider_of(by_token(name)).token()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no.such.module:token", "cannot be imported: ModuleNotFoundError: No module named 'no'"),
        (f"{TOKENS}:nobody", "cannot be imported: AttributeError: "),
        (f"{TOKENS}:NUMBER", "is int: it must be a callable that returns a token"),
    ],
)
def test_what_is_no_token_provider(path: str, said: str) -> None:
    """Is said before anybody connects, with the setting's name where that is what is wrong."""
    with pytest.raises(ConfigurationError, match=said):
        client_options("a:1", Security("SASL_SSL", "OAUTHBEARER", token_provider=path))


def test_what_a_refusal_means() -> None:
    """The operation is the caller's knowledge, the resource's name the brokers'."""
    refused = refusal_of(TopicAuthorizationFailedError({"b", "a"}), topic="Write")
    assert refused is not None
    assert (refused.operation, refused.kind, refused.name) == ("Write", "topic", "a, b")
    assert str(refusal_of(GroupAuthorizationFailedError("g"))).startswith("not allowed: Read on group g; grant it")
    said = str(refusal_of(TransactionalIdAuthorizationFailed("t-1")))
    assert said.startswith("not allowed: Write on transactional id t-1;")
    assert refusal_of(KafkaConnectionError()) is None


OWN = """\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHjME4GCSqGSIb3DQEFDTBBMCkGCSqGSIb3DQEFDDAcBAh6hPkb9qOjxQICCAAw
DAYIKoZIhvcNAgkFADAUBggqhkiG9w0DBwQIdhmaHoR2HN0EgZBi8MjKols9cJd2
kyZc/uJlG7BzLiukdvYJ9ciB0fdZpjNQtC9dY51rnMqrbDhpzCt0smxww45yDmnv
FA37j7kAX5+D/h4K4skyUbvkwOkjd0Ye51VTvPalHeOd3rDkZN5FqeX3skal7lKP
gjvHAJ0KIdm+bUXlRtoAr8rZ42CvW1KMU5ZSA3XNPz7Bmr+eR8o=
-----END ENCRYPTED PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBczCCARmgAwIBAgIUY4F4JVQdDlXGicupPgZElN0lt1EwCgYIKoZIzj0EAwIw
DjEMMAoGA1UEAwwDYW5uMCAXDTI2MTEyNDIwMzExMloYDzIxMjYxMDMxMjAzMTEy
WjAOMQwwCgYDVQQDDANhbm4wWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAREeATH
qRWW4FZW0j1ovzepj3FMTuvX2sZij/G/djIRwMhDVDMP88QTs3aC/OzJb4sLTf2X
R/zdkJfZbTyRjLiqo1MwUTAdBgNVHQ4EFgQUvOeCxbZVh0VBtY7f+zMLyXKbR0gw
HwYDVR0jBBgwFoAUvOeCxbZVh0VBtY7f+zMLyXKbR0gwDwYDVR0TAQH/BAUwAwEB
/zAKBggqhkjOPQQDAgNIADBFAiEAqTwWIvHvXSDfIrj4dQI0Sc1av7/vzHZEWxL/
Wa/5ZiECICV3bQQJfS3KPley/jTJzuqeVAEYT2aI2ff2FopOZMat
-----END CERTIFICATE-----
"""
"""A certificate and its key, which the password "opensesame" opens."""


def test_an_encrypted_key_wants_its_password(tmp_path: Path) -> None:
    """Without one OpenSSL would ask the terminal; a wrong one is named as what may be wrong."""
    own = tmp_path / "own.pem"
    own.write_text(OWN)
    assert ssl_context_of(Security("SSL", certfile=own, keypassword="opensesame")) is not None
    with pytest.raises(ConfigurationError, match=r"own.pem' is encrypted: set keypassword .*DLQ_SSL_KEYPASSWORD"):
        ssl_context_of(Security("SSL", certfile=own))
    with pytest.raises(ConfigurationError, match="the right keypassword") as caught:
        ssl_context_of(Security("SSL", certfile=own, keypassword="wrong-one"))
    assert "wrong-one" not in str(caught.value)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """Missing, or no certificate at all: which file, and by which setting it was named."""
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for security, said in (
        (Security("SSL", cafile="/no/ca.pem"), r"cafile '/no/ca.pem' No such file or directory \(setting ssl_cafile"),
        (Security("SSL", cafile=text), "text.pem' holds no certificate in PEM format"),
        (Security("SSL", certfile=text), "text.pem' and the certificate do not make a pair .*DLQ_SSL_CERTFILE"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            ssl_context_of(security)


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    """One context for all clients, until a certificate is renewed."""
    own = tmp_path / "own.pem"
    own.write_text(OWN)
    security = Security("SSL", certfile=own, keypassword="opensesame")
    before = ssl_context_of(security)
    assert ssl_context_of(security) is before
    os.utime(own, (1, 1))
    assert ssl_context_of(security) is not before
