"""What every command shares: settings, logging, and which exit code an end has."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Final, NoReturn

import click
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from dlq_stream import logs
from dlq_stream.core.errors import BrokersUnavailable, ConfigurationError, DLQError, UnsupportedFormat
from dlq_stream.kafka import UNREACHABLE
from dlq_stream.kafka_security import refusal_of
from dlq_stream.settings import Settings, load, remarks

EXIT_FAILED: Final = 1
"""A verdict or check failed, or the brokers answered with an error that no other code is for."""
EXIT_USAGE: Final = 2
"""Usage, configuration or a missing prerequisite."""
EXIT_UNREACHABLE: Final = 69
"""No broker answered in time (``EX_UNAVAILABLE``)."""
EXIT_UNEXPECTED: Final = 70
"""Something unexpected (``EX_SOFTWARE``)."""

NOT_ALLOWED: Final = (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
"""Answers of brokers that no waiting changes: somebody has to grant something."""

EXTRAS: Final = {
    "worker": ("faust", "mode", "re2"),
    "demo": ("rich",),
}
"""The modules that an extra of the package brings."""

log = logging.getLogger(__name__)


def need_extras(command: str, *extras: str) -> None:
    """End with code 2 and one line that says what to install, where a module of these extras is missing."""
    missing = [module for extra in extras for module in EXTRAS[extra] if not _is_there(module)]
    if missing:
        fail(
            f"dlq-stream {command} needs {', '.join(missing)}, not installed here: "
            f"pip install 'dlq-stream[{','.join(extras)}]'",
            EXIT_USAGE,
        )


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # imported already, as an object without a spec: that is what faust makes of itself
        return True


def run(options: Mapping[str, Any], body: Callable[[Settings], int], *, quiet: bool = False) -> NoReturn:
    """Load the settings, set up logging, run ``body`` and end the process with its exit code.

    A ``quiet`` command prints its result and its warnings itself: it logs nothing unless a level was set.
    """
    guard(lambda: _prepared(options, body if not quiet else lambda settings: _until_enough(settings, body), quiet))


def guard(body: Callable[[], int]) -> NoReturn:
    """Run ``body`` and end the process: with its exit code, or with the one that its exception means.

    KeyboardInterrupt gets through: what a signal means is the same for all commands (`dlq_stream.cli`).
    """
    try:
        code = body()
    except (ConfigurationError, UnsupportedFormat) as error:
        fail(str(error), EXIT_USAGE)
    except BrokersUnavailable as error:
        fail(str(error), EXIT_UNREACHABLE)
    except NOT_ALLOWED as error:
        fail(str(refusal_of(error) or f"the brokers refuse: {_words(error)}"), EXIT_USAGE)
    except UNREACHABLE as error:
        fail(f"the brokers stopped answering: {_words(error)}", EXIT_UNREACHABLE)
    except (DLQError, KafkaError) as error:
        fail(_words(error), EXIT_FAILED)
    except Exception:
        log.critical("unexpected", exc_info=True)
        code = EXIT_UNEXPECTED
    raise SystemExit(code)


def warn(message: str) -> None:
    """Say on standard error what does not keep a command from going on."""
    click.echo(f"Warning: {message}", err=True)


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong on standard error and end with ``code``."""
    click.echo(f"Error: {message}", err=True)
    raise SystemExit(code)


def _prepared(options: Mapping[str, Any], body: Callable[[Settings], int], quiet: bool) -> int:
    settings = load(options)
    silent = quiet and "log_level" not in settings.model_fields_set
    logs.set_up(settings.log_format, "critical" if silent else settings.log_level)
    for remark in remarks():
        if silent:
            warn(remark)
        else:
            log.warning(remark)
    return body(settings)


def _until_enough(settings: Settings, body: Callable[[Settings], int]) -> int:
    """Run ``body``; where whoever reads its output (``head``) has enough and goes away, that is an end like others."""
    try:
        return body(settings)
    except BrokenPipeError:
        # What is left in its buffer would be written, and fail again, when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
