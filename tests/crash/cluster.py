"""Brokers for scenarios that need more of them than the launcher makes by itself: nodes of one cluster, and a listener
that leads through a proxy.

The launcher (`deploy/kafka/kafka`) starts single nodes.  Given a marker in the data directory it takes cluster id and
ports from there, and given properties it takes those over its own: that is all that nodes of one cluster need.
"""

from __future__ import annotations

import json
import random
import socket
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.kafka_fixture import HEAP, LocalKafka

HOST = "127.0.0.1"
PORTS = range(15_000, 30_000)
"""Outside of the ephemeral range, as the launcher has it."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, 500):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports between {PORTS.start} and {PORTS.stop - 1}")


def node(cluster_id: str, port: int, controller_port: int, properties: Mapping[str, object]) -> LocalKafka:
    """A node that is to be started: in a directory of its own, of this cluster, on these ports."""
    data = Path(tempfile.mkdtemp(prefix="dlq-kafka-"))
    marker = {"cluster_id": cluster_id, "port": port, "controller_port": controller_port}
    (data / "launcher.json").write_text(json.dumps(marker))
    options = ["--port", str(port), "--heap", HEAP]
    for name, value in properties.items():
        options += ["--set", f"{name}={value}"]
    return LocalKafka(data, options)


def new_cluster_id() -> str:
    """As `kafka-storage.sh random-uuid` makes them."""
    return urlsafe_b64encode(b"\x01" + uuid.uuid4().bytes[1:]).decode().rstrip("=")


@dataclass(frozen=True)
class Cluster:
    """Nodes that are one cluster."""

    nodes: Sequence[LocalKafka]

    @property
    def bootstrap(self) -> str:
        """All of them."""
        return ",".join(each.bootstrap for each in self.nodes)


@contextmanager
def three_nodes() -> Iterator[Cluster]:
    """Three brokers that are controllers, too; every topic on all of them, written to at least two."""
    free = free_ports(6)
    ports, controllers = free[:3], free[3:]
    cluster_id = new_cluster_id()
    shared = {
        "controller.quorum.voters": ",".join(f"{id_}@{HOST}:{port}" for id_, port in enumerate(controllers, 1)),
        "default.replication.factor": 3,
        "min.insync.replicas": 2,
        "offsets.topic.replication.factor": 3,
        "transaction.state.log.replication.factor": 3,
        "transaction.state.log.min.isr": 2,
    }
    with ExitStack() as stack:
        nodes = []
        for id_, (port, controller) in enumerate(zip(ports, controllers, strict=True), 1):
            nodes.append(node(cluster_id, port, controller, {"node.id": id_, **shared}))
            stack.callback(nodes[-1].wipe)
        with ThreadPoolExecutor(len(nodes)) as pool:  # none of them answers before most of them are there
            list(pool.map(LocalKafka.start, nodes))
        yield Cluster(nodes)


@contextmanager
def with_second_way(proxied_port: int) -> Iterator[tuple[LocalKafka, int]]:
    """A broker with a second listener that says to be at ``proxied_port``; yields the broker and that listener's port.

    Who comes in by the second listener is told by the broker to go on by it.
    """
    port, controller, second = free_ports(3)
    way = {
        "listeners": f"PLAINTEXT://{HOST}:{port},PROXIED://{HOST}:{second},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port},PROXIED://{HOST}:{proxied_port}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
    }
    broker = node(new_cluster_id(), port, controller, way)
    try:
        broker.start()
        yield broker, second
    finally:
        broker.wipe()
