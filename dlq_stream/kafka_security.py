"""A `Connection` as options of aiokafka: the one place where certificates are loaded and token providers imported.

Every client of ours is made from `client_options`, so that what holds for one (TLS verified with host names, no
credentials in the clear unasked) holds for all.

Like `dlq_stream.kafka`, this knows neither our settings nor our topics.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from dlq_stream.core.connection import OAUTHBEARER, Brokers, Secret, Security, connection_to
from dlq_stream.core.errors import ConfigurationError, NotAllowed

CONTEXTS_MAX = 16
"""TLS contexts kept: one for each `Security` and version of its files; loading the system's authorities takes 20 ms."""


def client_options(brokers: Brokers, security: Security | None = None) -> dict[str, Any]:
    """What every client of aiokafka is made with: addresses, TLS and SASL.

    Raises ConfigurationError where a file cannot be used or a token provider not be imported.
    """
    connection = connection_to(brokers, security)
    return {"bootstrap_servers": list(connection.brokers), **security_options(connection.security)}


def security_options(security: Security) -> dict[str, Any]:
    """The same without addresses."""
    options: dict[str, Any] = {"security_protocol": security.protocol, "ssl_context": ssl_context_of(security)}
    if security.uses_sasl:
        options["sasl_mechanism"] = security.mechanism
        if security.mechanism == OAUTHBEARER:
            options["sasl_oauth_token_provider"] = token_provider_of(security)
        else:
            options["sasl_plain_username"] = security.username
            options["sasl_plain_password"] = _revealed(security.password)
    return options


def _revealed(secret: str | Secret | None) -> str:
    return secret.reveal() if isinstance(secret, Secret) else secret or ""


# ----------------------------------------------------------------------------------------------------------------- TLS


def ssl_context_of(security: Security) -> ssl.SSLContext | None:
    """The context for TLS, which verifies certificate and host name; None without TLS.

    One for all clients, until a file is replaced, as renewed certificates are: clients that are made then use the new
    ones.  Raises ConfigurationError that names the file.
    """
    if not security.uses_tls:
        return None
    return _context(security, tuple(_stamp(security, name) for name in ("cafile", "certfile", "keyfile")))


def _stamp(security: Security, name: str) -> int | None:
    """When a file was last changed; None where none is named."""
    path = getattr(security, name)
    if path is None:
        return None
    try:
        with Path(path).open("rb"):
            return Path(path).stat().st_mtime_ns
    except OSError as error:
        _unusable(security, name, error.strerror or repr(error))


@lru_cache(maxsize=CONTEXTS_MAX)
def _context(security: Security, stamps: tuple[int | None, ...]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=security.cafile)
    except (ssl.SSLError, ValueError) as error:
        _unusable(security, "cafile", f"holds no certificate in PEM format ({_words(error)})")
    if security.certfile is not None:
        own_key = "keyfile" if security.keyfile is not None else "certfile"

        def password() -> str:  # without it OpenSSL would ask for one, on the terminal
            if security.keypassword is None:
                _unusable(security, own_key, "is encrypted: set keypassword / ssl_keypassword / DLQ_SSL_KEYPASSWORD")
            return _revealed(security.keypassword)

        try:
            context.load_cert_chain(security.certfile, security.keyfile, password)
        except (ssl.SSLError, ValueError) as error:
            _unusable(
                security,
                own_key,
                f"and the certificate do not make a pair that can be used ({_words(error)}): is it PEM, the right key, "
                "the right keypassword?",
            )
    return context


def _words(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)


def _unusable(security: Security, name: str, problem: str) -> NoReturn:
    raise ConfigurationError(
        f"{name} '{getattr(security, name)}' {problem} (setting ssl_{name} / --ssl-{name} / DLQ_SSL_{name.upper()})"
    )


# ---------------------------------------------------------------------------------------------------------------- SASL


class TokenNotAvailable(KafkaConnectionError):  # type: ignore[misc]  # aiokafka has no types
    """The token provider raised, or returned no token; like brokers that are away, that may pass."""


class _Tokens(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """Whatever the import path names, as aiokafka wants it.

    What a provider raises does not go through aiokafka: its loops know connection errors only, and end with others.
    """

    def __init__(self, path: str, provider: Any) -> None:
        self._path = path
        self._provider = provider
        self._ask = provider.token if isinstance(provider, AbstractTokenProvider) else provider

    async def token(self) -> str:
        """A token; a plain function is asked in a thread, for it may wait for somebody else's server."""
        try:
            if inspect.iscoroutinefunction(self._ask):
                token = await self._ask()
            else:
                token = await asyncio.to_thread(self._ask)
                token = await token if inspect.isawaitable(token) else token
        except Exception as error:
            raise TokenNotAvailable(f"token provider {self._path} raised {type(error).__name__}: {error}") from error
        if not isinstance(token, str) or not token:
            what = "an empty text" if token == "" else type(token).__name__
            raise TokenNotAvailable(f"token provider {self._path} returned {what}, not a token")
        return token

    def extensions(self) -> dict[str, str]:
        """See `AbstractTokenProvider.extensions`."""
        if not isinstance(self._provider, AbstractTokenProvider):
            return {}
        return dict(self._provider.extensions())


def token_provider_of(security: Security) -> AbstractTokenProvider:
    """The token provider that an import path names, for one client.  Raises ConfigurationError."""
    path = security.token_provider or ""
    module_name, _, name = path.partition(":")
    try:
        provider: Any = import_module(module_name)
        for part in name.split("."):
            provider = getattr(provider, part)
        if isinstance(provider, type):
            provider = provider()
    except Exception as error:
        raise ConfigurationError(
            f"token_provider {path!r} cannot be imported: {type(error).__name__}: {error} "
            "(setting sasl_token_provider / --sasl-token-provider / DLQ_SASL_TOKEN_PROVIDER)"
        ) from error
    if not isinstance(provider, AbstractTokenProvider) and not callable(provider):
        raise ConfigurationError(
            f"token_provider {path!r} is {type(provider).__name__}: it must be a callable that returns a token, or an "
            "aiokafka.abc.AbstractTokenProvider"
        )
    return _Tokens(path, provider)


# ------------------------------------------------------------------------------------------------------ who may do what


def refusal_of(error: BaseException, *, topic: str = "Read or Write", group: str = "Read") -> NotAllowed | None:
    """What a broker's refusal means; None where the error is none.

    The brokers name the resource at best; which operation it was, the caller knows: ``topic`` and ``group`` say it.
    """
    match error:
        case TopicAuthorizationFailedError():
            return NotAllowed(topic, "topic", _subject(error))
        case GroupAuthorizationFailedError():
            return NotAllowed(group, "group", _subject(error))
        case TransactionalIdAuthorizationFailed():
            return NotAllowed("Write", "transactional id", _subject(error))
        case ClusterAuthorizationFailedError():  # brokers before 2.8, where Write on a topic is not enough
            return NotAllowed("IdempotentWrite", "cluster", "kafka-cluster")
    return None


def _subject(error: BaseException) -> str:
    """The names in it; aiokafka gives one, or a set of them."""
    named = error.args[0] if error.args else "(which one the brokers do not say)"
    return ", ".join(sorted(map(str, named))) if isinstance(named, (set, frozenset, list, tuple)) else str(named)
