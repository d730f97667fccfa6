"""Token providers, as users name them by import path; the tokens are what Kafka takes where nobody signs (RFC 7515)."""

from __future__ import annotations

import base64
import json
import os
import time

from aiokafka.abc import AbstractTokenProvider

USER = "TESTS_TOKEN_USER"
"""The variable that says whose token it is."""

LIFE_SECONDS = 3600


def token() -> str:
    """An unsecured JSON web token of the user that the environment names."""
    now = int(time.time())
    claims = {"sub": os.environ[USER], "iat": now - 60, "exp": now + LIFE_SECONDS}
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."


async def later() -> str:
    """The same, for who has to wait for it."""
    return token()


class Provider(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """The same, as aiokafka has it."""

    async def token(self) -> str:
        return token()

    def extensions(self) -> dict[str, str]:
        return {"tenant": "furnaces"}


def broken() -> str:
    """Raises, as while the server of tokens is away."""
    raise ConnectionError("no token today")


def nothing() -> str:
    """No token."""
    return ""


NUMBER = 7
"""Is no provider."""
