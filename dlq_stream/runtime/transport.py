"""Faust's Kafka driver, with our consumer, and producers that do not create topics.

Everything Faust would write itself (declared topics, table changelogs, commits) is written by the runtime; Faust's own
producer is started, because it insists, and never used.
"""

from __future__ import annotations

from typing import Any

from faust.auth import Credentials, OAuthCredentials, SASLCredentials, SSLCredentials
from faust.transport.drivers import aiokafka as driver

from dlq_stream.core.connection import Security
from dlq_stream.kafka import no_topic_creation
from dlq_stream.kafka_security import security_options
from dlq_stream.runtime.consumer import Consumer


def credentials_of(security: Security) -> Credentials | None:
    """The same for Faust, which makes its consumer and producer itself; None where nothing is asked for."""
    options = security_options(security)
    context = options["ssl_context"]
    if not security.uses_sasl:
        return SSLCredentials(context) if security.uses_tls else None
    provider = options.get("sasl_oauth_token_provider")
    if provider is not None:
        return OAuthCredentials(oauth_cb=provider, ssl_context=context)
    return SASLCredentials(
        username=options["sasl_plain_username"],
        password=options["sasl_plain_password"],
        mechanism=security.mechanism,
        ssl_context=context,
    )


class Producer(driver.Producer):
    """Faust's plain producer."""

    def _new_producer(self, transactional_id: str | None = None) -> Any:
        """Removes: metadata requests of stock producers bring a deleted topic back (aiokafka asks for creation)."""
        return no_topic_creation(super()._new_producer(transactional_id=transactional_id))


class Transport(driver.Transport):
    """The driver with our consumer and producer."""

    Consumer = Consumer
    Producer = Producer
