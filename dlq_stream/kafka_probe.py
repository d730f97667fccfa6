"""Ask one address whether a Kafka broker answers there and lets us in; and if not, whether waiting can change that.

aiokafka's own bootstrap tries every address and says "unable to bootstrap" at the end: a wrong password, a certificate
that nobody trusts and a broker that is still starting look the same.  So here the connection is made by itself, and:

* what a broker says of our credentials or certificate, and what TLS says of the broker's, is final;
* a connection that is closed in the middle may be a broker that is going down, or one that expects another protocol:
  that is found out by speaking the other protocol to it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from aiokafka.conn import create_conn
from aiokafka.errors import BrokerResponseError, KafkaError, SaslAuthenticationFailed
from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

from dlq_stream.core.connection import OAUTHBEARER, Security
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.kafka_security import security_options

_CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
_UNSUPPORTED_MECHANISM, _ILLEGAL_SASL_STATE = 33, 34
_PROTOCOL = "set security_protocol (--security-protocol / DLQ_SECURITY_PROTOCOL)"


async def problem_of(address: str, security: Security, seconds: float) -> str:
    """Why ``address`` does not answer as a Kafka broker; empty where it does.

    Raises ConfigurationError, which names the address and the fix, for what no waiting changes.
    """
    host, _, port = address.rpartition(":") if ":" in address else (address, ":", "9092")
    place = (host.strip("[]"), int(port))
    options = {**security_options(security), "client_id": "dlq-stream-probe", "request_timeout_ms": int(seconds * 1000)}
    try:
        async with asyncio.timeout(seconds):
            await _ask(place, options)
    except TimeoutError:
        return f"{address}: no answer"
    except (OSError, KafkaError, ValueError, AssertionError) as error:
        await _raise_what_is_final(address, place, security, error, seconds)
        return f"{address}: {error}"
    return ""


async def _ask(place: tuple[str, int], options: Mapping[str, Any]) -> None:
    """Connect, authenticate, and ask for the brokers.

    A broker that refuses a token says so in a challenge (RFC 7628, 3.2.3), which aiokafka takes for a yes.  The broker
    answers the next request with nothing in it, and closes.
    """
    connection = await create_conn(*place, **options)
    try:
        answer = await connection.send(_request(MetadataRequest, []))
        if options.get("sasl_mechanism") == OAUTHBEARER and not answer.brokers:
            try:
                await connection.send(_request(MetadataRequest, []))
            except KafkaError as error:
                raise SaslAuthenticationFailed("the broker closed the connection after it") from error
    finally:
        await connection.close()


def _request(request: Any, *arguments: Any) -> Any:
    """Before aiokafka 0.13 there is a list of classes, one per version."""
    return request[1](*arguments) if isinstance(request, list) else request(*arguments)


async def _raise_what_is_final(
    address: str, place: tuple[str, int], security: Security, error: Exception, seconds: float
) -> None:
    if isinstance(error, BrokerResponseError):
        raise ConfigurationError(f"{address}: authentication failed: {_refusal(security, error)}") from error
    tls = _tls_error(error)
    if tls is not None and not isinstance(tls, _CUT_OFF):
        raise ConfigurationError(f"{address}: TLS handshake failed: {_tls_words(security, tls)}") from error
    if tls is None and isinstance(error, (ValueError, AssertionError)):
        raise ConfigurationError(
            f"{address}: authentication failed: what the broker said is no {security.mechanism} ({error}); "
            "is it the cluster that you mean?"
        ) from error
    if isinstance(error, ConnectionRefusedError):
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            if mismatch := await _mismatch(place, security, seconds):
                raise ConfigurationError(f"{address}: {mismatch}") from error


def _refusal(security: Security, error: BrokerResponseError) -> str:
    if error.errno not in (_UNSUPPORTED_MECHANISM, _ILLEGAL_SASL_STATE):
        who = f"user {security.username!r}" if security.username else f"the token of {security.token_provider}"
        return f"the broker does not accept {who} with {security.mechanism} ({error}); check name, password or token"
    if error.errno == _ILLEGAL_SASL_STATE:
        return f"this listener takes no SASL, security_protocol is {security.protocol}: {_PROTOCOL}"
    return f"the broker does not take {security.mechanism}: set sasl_mechanism (--sasl-mechanism / DLQ_SASL_MECHANISM)"


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error in a chain of causes; with TLS 1.3 a broker refuses a client's certificate after the handshake."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__
    return None


def _tls_words(security: Security, error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the broker's certificate is not accepted: {error.verify_message}; ssl_cafile (--ssl-cafile / "
            f"DLQ_SSL_CAFILE, now {security.cafile or 'the authorities of the system'}) must hold the authority that "
            "signed it, and brokers must be addressed by a name that it is for"
        )
    reason = str(error.reason or error)
    if "ALERT" in reason or "CERTIFICATE" in reason:
        own = security.certfile or "none"
        return (
            f"the broker refuses: {reason}; it wants a client certificate that it trusts, ssl_certfile (--ssl-certfile "
            f"/ DLQ_SSL_CERTFILE) is {own}"
        )
    return f"{reason}; is this a TLS listener? If not, {_PROTOCOL}"


async def _mismatch(place: tuple[str, int], security: Security, seconds: float) -> str:
    """What protocol the listener speaks instead of the one that is set; empty where that is not known."""
    is_plain = await _speaks(place, Security(), seconds)
    if security.uses_tls and is_plain:
        return f"this listener does not speak TLS, security_protocol is {security.protocol}: {_PROTOCOL}"
    if not security.uses_tls and not is_plain and await _speaks_tls(place):
        return f"this listener speaks TLS, security_protocol is {security.protocol}: {_PROTOCOL}"
    if not security.uses_sasl and await _wants_sasl(place, security, seconds):
        return f"this listener wants SASL, security_protocol is {security.protocol}: {_PROTOCOL}"
    return ""


async def _speaks(place: tuple[str, int], security: Security, seconds: float) -> bool:
    """Whether a broker tells its versions there, which it does before it authenticates anybody."""
    try:
        connection = await create_conn(*place, request_timeout_ms=int(seconds * 1000), **security_options(security))
    except (OSError, KafkaError, TimeoutError):
        return False
    await connection.close()
    return True


async def _speaks_tls(place: tuple[str, int]) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent: this is a question about the protocol only
    try:
        _, writer = await asyncio.open_connection(*place, ssl=context)
    except OSError:
        return False
    writer.close()
    return True


async def _wants_sasl(place: tuple[str, int], security: Security, seconds: float) -> bool:
    """Whether the listener takes a SASL handshake; one without SASL calls it illegal."""
    try:
        connection = await create_conn(*place, request_timeout_ms=int(seconds * 1000), **security_options(security))
        try:
            answer = await connection.send(_request(SaslHandShakeRequest, "PLAIN"))
        finally:
            await connection.close()
    except (OSError, KafkaError, TimeoutError):
        return False
    return bool(answer.error_code != _ILLEGAL_SASL_STATE)
