"""The Faust app class: stock at-least-once Faust with our transport, consumer, recovery and tables.

Faust commits nothing, writes nothing and creates nothing here; `Owner` does the work, and what is unexpected ends the
process (see `crash`).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import faust
from faust.exceptions import AlreadyConfiguredWarning

from dlq_stream.core.errors import DLQError
from dlq_stream.runtime.owner import Owner
from dlq_stream.runtime.recovery import TableManager
from dlq_stream.runtime.store import Table
from dlq_stream.runtime.transport import Transport

log = logging.getLogger(__name__)

FIXED_SETTINGS: Mapping[str, Any] = {
    "processing_guarantee": "at_least_once",  # Faust's own exactly-once loses and repeats (upstream #177, #323, #517)
    "topic_allow_declare": False,  # only `init` creates topics
    "topic_disable_leader": True,
    "stream_wait_empty": True,
    "store": "memory://",  # never used: `Table` brings its own store
    "web_tables_enabled": False,  # these pages would show payloads to anyone
    "web_router_enabled": False,
    "web_stats_enabled": False,
    "web_graph_enabled": False,
    "web_metrics_enabled": False,
    "debug": False,
}


class App(faust.App):
    """A Faust app whose partitions are owned by an `Owner` (set before the start)."""

    owner: Owner

    def __init__(
        self,
        app_id: str,
        *,
        web: Mapping[str, Any],
        refuse: Callable[[DLQError], NoReturn],
        fatal: Callable[[str, BaseException], NoReturn],
        **settings: Any,
    ) -> None:
        self._web_settings = dict(web)
        self.refuse = refuse
        self.fatal = fatal
        super().__init__(app_id, TableManager=TableManager, Table=Table, **FIXED_SETTINGS, **web, **settings)

    def _new_transport(self) -> Transport:
        """Removes: the driver that the broker's URL chooses, whose consumer loses and repeats records (#596, #606)."""
        return Transport(self.conf.broker_consumer, self, loop=self.loop)

    def _new_producer_transport(self) -> Transport:
        """Removes: the same driver's producer, which brings deleted topics back (see `Producer`)."""
        return Transport(self.conf.broker_producer, self, loop=self.loop)

    def on_init_dependencies(self) -> Any:
        """Removes: ``faust worker`` turns the web server on, on all interfaces, whatever the app's settings say."""
        with warnings.catch_warnings(action="ignore", category=AlreadyConfiguredWarning):
            for name, value in self._web_settings.items():
                if str(getattr(self.conf, name)) != str(value):
                    setattr(self.conf, name, value)
        return super().on_init_dependencies()

    def _new_web(self) -> Any:
        """Removes: Faust's page at ``/``, which no setting turns off; it says "OK" whatever the worker's state."""
        web = super()._new_web()
        web.blueprints = type(web.blueprints)()
        return web

    def on_ready(self) -> None:
        """Called after each rebalance, when every assigned partition is restored and delivering."""
        log.info("ready: partitions %s", sorted(self.owner.partitions))

    def _crash(self, reason: BaseException) -> None:
        """Removes: a service that crashes and leaves others running on a state in doubt; every crash gets here."""
        if not self.should_stop:
            self.fatal("a service of the worker", reason)
        super()._crash(reason)
