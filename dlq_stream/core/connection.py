"""Where the brokers are and how to be let in: addresses with TLS and SASL, as one value that every client is made from.

What does not fit together is refused here, when the value is made, and not by a client hours later: each refusal names
the field, its value and the fix.  Passwords are `Secret`: they show up in no ``repr``, error, log line or JSON.

Files are named here and opened by `dlq_stream.kafka_security`, which turns all of this into options of aiokafka.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.shown import shown

PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
"""As Kafka names them in ``security.protocol``; "SSL" is TLS."""

BY_PASSWORD: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
"""SASL mechanisms that take a user name and a password."""

OAUTHBEARER: Final = "OAUTHBEARER"
"""The SASL mechanism that takes a token (KIP-255), which a token provider makes."""

MECHANISMS: Final = (*BY_PASSWORD, OAUTHBEARER)

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_SASL_FIELDS = ("mechanism", "username", "password", "token_provider")
_TLS_FIELDS = ("cafile", "certfile", "keyfile", "keypassword")


class Secret:
    """A text that is told only to who asks for it by name (`reveal`)."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "'**********'"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class InsecureOrInconsistent(ConfigurationError):
    """Fields of a `Security` that do not fit together.

    ``text`` names fields as ``{protocol}``; `named` says the same to somebody who knows them by other names.
    """

    def __init__(self, text: str, field: str, names: Mapping[str, str] | None = None) -> None:
        self.text = text
        self.field = field
        known = {each: each for each in Security.__dataclass_fields__} | dict(names or {})
        super().__init__(text.format_map(known))

    def named(self, names: Mapping[str, str]) -> InsecureOrInconsistent:
        """The same error with other names of the fields."""
        return InsecureOrInconsistent(self.text, self.field, names)


@dataclass(frozen=True, slots=True)
class Security:
    """How a client proves who it is and whom it trusts; without arguments, it does neither (``PLAINTEXT``).

    * ``protocol``: one of `PROTOCOLS`.
    * ``mechanism``: with ``SASL_*``, one of `MECHANISMS`; ``username`` and ``password`` for all but OAUTHBEARER.
    * ``token_provider``: for OAUTHBEARER, the import path ``package.module:name`` of a callable without arguments that
      returns a token (it may be ``async``), or of a class or object of `aiokafka.abc.AbstractTokenProvider`.
    * ``cafile``: PEM file of the authorities to trust; None trusts the system's.
    * ``certfile``, ``keyfile``, ``keypassword``: the client's own certificate chain and key, PEM; the key may be in
      ``certfile``.
    * ``allow_sasl_without_tls``: SASL in the clear (``SASL_PLAINTEXT``) is refused unless this says yes.

    Raises `InsecureOrInconsistent`.
    """

    protocol: str = "PLAINTEXT"
    mechanism: str | None = None
    username: str | None = None
    password: str | Secret | None = None
    cafile: str | Path | None = None
    certfile: str | Path | None = None
    keyfile: str | Path | None = None
    keypassword: str | Secret | None = None
    token_provider: str | None = None
    allow_sasl_without_tls: bool = False

    def __post_init__(self) -> None:
        for name in ("password", "keypassword"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, Secret(value) if value else None)
        self._check_words()
        if self.uses_sasl:
            self._check_sasl()
        else:
            self._check_absent(_SASL_FIELDS, "SASL_SSL")
        if self.uses_tls:
            self._check_tls()
        else:
            self._check_absent(_TLS_FIELDS, "SASL_SSL" if self.uses_sasl else "SSL")

    @property
    def uses_tls(self) -> bool:
        """Whether connections are encrypted, and the broker's certificate and host name verified."""
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def uses_sasl(self) -> bool:
        """Whether the client authenticates by SASL."""
        return self.protocol.startswith("SASL_")

    def _check_words(self) -> None:
        for name, words in (("protocol", PROTOCOLS), ("mechanism", (*MECHANISMS, None))):
            value = getattr(self, name)
            if value not in words:
                self._raise(name, f"is not one of {', '.join(filter(None, words))}")

    def _check_sasl(self) -> None:
        if self.mechanism is None:
            self._raise("mechanism", f"{{protocol}} {self.protocol} needs one: {', '.join(MECHANISMS)}")
        needs = ("token_provider",) if self.mechanism == OAUTHBEARER else ("username", "password")
        for name in needs:
            if not getattr(self, name):
                self._raise(name, f"{{mechanism}} {self.mechanism} needs it")
        for name in {"username", "password", "token_provider"} - set(needs):
            if getattr(self, name):
                self._raise(name, f"{{mechanism}} {self.mechanism} does not take it: leave it out, or change that")
        if self.token_provider is not None and not _IMPORT_PATH.fullmatch(self.token_provider):
            self._raise("token_provider", "is not an import path; write package.module:name")
        if not self.uses_tls and not self.allow_sasl_without_tls:
            self._raise(
                "protocol",
                "would send credentials over connections that anybody on the way can read and alter: use SASL_SSL, or "
                "allow it with {allow_sasl_without_tls}",
            )

    def _check_tls(self) -> None:
        for name in ("keyfile", "keypassword"):
            if getattr(self, name) and not self.certfile:
                self._raise(name, "belongs to a client certificate: set {certfile}, or leave this out")

    def _check_absent(self, names: Sequence[str], instead: str) -> None:
        for name in names:
            if getattr(self, name):
                self._raise(
                    name,
                    f"is not used with {{protocol}} {self.protocol}: set {{protocol}} to {instead}, or leave this out",
                )

    def _raise(self, name: str, problem: str) -> None:
        value = getattr(self, name)
        value = str(value) if isinstance(value, Path) else value
        said = "is missing" if value is None else f"= {value if isinstance(value, Secret) else shown(value)}"
        said = said.replace("{", "{{").replace("}", "}}")
        raise InsecureOrInconsistent(f"{{{name}}} {said}{'; ' if value is None else ': '}{problem}", name)


@dataclass(frozen=True, slots=True)
class Connection:
    """A cluster: addresses ``host:port`` of some of its brokers, and how they let us in.

    ``str()`` of it is the addresses, separated by commas.  Raises ConfigurationError where there is no address or one
    is none.
    """

    brokers: tuple[str, ...]
    security: Security = Security()

    def __post_init__(self) -> None:
        if not self.brokers:
            raise ConfigurationError("brokers: names no broker; write host:port, several separated by commas")
        for address in self.brokers:
            host, colon, port = address.rpartition(":")
            if colon and not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
                raise ConfigurationError(f"brokers: {shown(address)} is not host:port with a port of 1 to 65535")

    def __str__(self) -> str:
        return ",".join(self.brokers)


Brokers = str | Sequence[str] | Connection
"""What every function that makes a client takes: ``"a:9092, b:9092"``, the same as a list, or a `Connection`."""


def connection_to(brokers: Brokers, security: Security | None = None) -> Connection:
    """The same as a `Connection`; ``security`` is for addresses alone.  Raises ConfigurationError."""
    if isinstance(brokers, Connection):
        if security is not None and security != brokers.security:
            raise ConfigurationError("security: the connection has its own; give one of them")
        return brokers
    parts = brokers.split(",") if isinstance(brokers, str) else brokers
    return Connection(tuple(part.strip() for part in parts if part.strip()), security or Security())
