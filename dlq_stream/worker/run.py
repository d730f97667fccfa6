"""``dlq-stream worker``: check, then run the app until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from dlq_stream.core.errors import ConfigurationError
from dlq_stream.runtime.crash import EXIT_CRASH_ONLY
from dlq_stream.runtime.process import Worker
from dlq_stream.settings import Settings
from dlq_stream.worker.allocator import bound_arenas
from dlq_stream.worker.collector import spare_the_collector
from dlq_stream.worker.preparation import prepare
from dlq_stream.worker.stream import stream

log = logging.getLogger(__name__)


def main(settings: Settings, check_signals: Callable[[], None]) -> int:
    """Run a worker until SIGTERM or SIGINT; returns the exit code, 0 or 70.

    ``check_signals`` raises KeyboardInterrupt if one of them came before there were handlers for them.
    Raises `ConfigurationError` or `BrokersUnavailable` when it cannot start; then it has joined nothing.
    """
    settings = settings.model_copy(update={"web_port": free_port(settings.web_port)})
    bound_arenas()
    verified = asyncio.run(prepare(settings))
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # before the app exists: Faust pins it to the loop it finds
    app = stream(settings)
    app.verified = verified
    log.info("web server on http://127.0.0.1:%d", settings.web_port)
    worker = Worker(app, loop=loop, quiet=True, override_logging=False, redirect_stdouts=False)
    worker.spinner = None  # logs are for machines too
    spare_the_collector()
    check_signals()
    try:
        worker.execute_from_commandline()
    except SystemExit as exit_:
        return 0 if exit_.code in (0, None) else EXIT_CRASH_ONLY
    except (Exception, asyncio.CancelledError):  # Faust raises again whatever one of its services crashed with
        log.critical("the worker ended unexpectedly", exc_info=True)
    return EXIT_CRASH_ONLY


def free_port(port: int) -> int:
    """The port, or a free one for 0; raises `ConfigurationError` where it is taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                f"web_port {port} cannot be used on 127.0.0.1: {error.strerror}; choose another, or 0 for a free one"
            ) from error
        number: int = probe.getsockname()[1]
        return number
