"""Faust makes its consumer and its producer itself: it is told the same about security as every client of ours."""

from __future__ import annotations

import pytest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from dlq_stream.core.connection import Security
from dlq_stream.kafka_security import security_options
from dlq_stream.runtime.transport import credentials_of


@pytest.mark.parametrize(
    "security",
    [
        Security(),
        Security("SSL"),
        Security("SASL_SSL", "PLAIN", "ann", "h1dden"),
        Security("SASL_SSL", "SCRAM-SHA-512", "ann", "h1dden"),
        Security("SASL_PLAINTEXT", "SCRAM-SHA-256", "ann", "h1dden", allow_sasl_without_tls=True),
    ],
    ids=lambda security: f"{security.protocol} {security.mechanism}",
)
def test_faust_is_told_what_our_clients_are(security: Security) -> None:
    """To the last option; and none of it shows in what Faust prints."""
    credentials = credentials_of(security)
    told = credentials_to_aiokafka_auth(credentials)
    assert {"ssl_context": None, **told} == security_options(security)
    assert "h1dden" not in repr(credentials)


def test_tokens_come_from_the_provider() -> None:
    """Faust has credentials of another kind for them."""
    security = Security("SASL_SSL", "OAUTHBEARER", token_provider="tests.integration.tokens:token")
    told = credentials_to_aiokafka_auth(credentials_of(security))
    ours = security_options(security)
    assert told["sasl_mechanism"] == "OAUTHBEARER"
    assert type(told["sasl_oauth_token_provider"]) is type(ours["sasl_oauth_token_provider"])
    assert told["ssl_context"] is ours["ssl_context"]
