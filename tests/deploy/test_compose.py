"""`deploy/compose.yaml` runs what the launcher runs, so that what is tested with the one holds for the other."""

from __future__ import annotations

import base64
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from dlq_stream.cli import COMMANDS
from dlq_stream.settings import Settings
from tests.kafka_fixture import LAUNCHER

DEPLOY = LAUNCHER.parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
THREE = ("kafka-1", "kafka-2", "kafka-3")

OF_THE_PLACE = {
    "node.id",
    "listeners",
    "advertised.listeners",
    "controller.quorum.voters",
    "listener.security.protocol.map",
    "inter.broker.listener.name",
    "log.dirs",
}
"""Properties that say where a node is."""

OF_THE_NUMBER = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
}
"""Properties that follow from three brokers."""


@pytest.fixture(scope="module")
def launcher() -> ModuleType:
    """The launcher as a module; it runs nothing by being imported."""
    loader = SourceFileLoader("kafka_launcher", str(LAUNCHER))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def properties_of(service: str) -> dict[str, str]:
    """The broker's properties, as the image makes them of the environment: KAFKA_NODE_ID is node.id."""
    environment = SERVICES[service]["environment"]
    return {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in environment.items()
        if name.startswith("KAFKA_")
    }


def launchers_properties(launcher: ModuleType, directory: Path) -> dict[str, str]:
    """What the launcher's broker has with no options."""
    state = launcher.DEFAULTS | {"controller_port": 9093}
    text = launcher.server_properties(launcher.Broker(directory), state)
    return dict(line.split("=", 1) for line in text.splitlines())


def test_one_broker_has_the_launchers_properties(launcher: ModuleType, tmp_path: Path) -> None:
    """But for where it is; and it is the same version."""
    ours, theirs = properties_of("kafka"), launchers_properties(launcher, tmp_path)
    assert {n: v for n, v in ours.items() if n not in OF_THE_PLACE} == {
        n: v for n, v in theirs.items() if n not in OF_THE_PLACE
    }
    for name in ("kafka", *THREE):
        assert SERVICES[name]["image"] == f"apache/kafka:{launcher.kafka_version()}"


def test_three_brokers_have_them_too() -> None:
    """And copies of everything."""
    one = {n: v for n, v in properties_of("kafka").items() if n not in OF_THE_PLACE}
    for number, name in enumerate(THREE, 1):
        properties = properties_of(name)
        assert {n: v for n, v in properties.items() if n not in OF_THE_PLACE} == one | OF_THE_NUMBER
        assert properties["node.id"] == str(number)


@pytest.mark.parametrize("name", ["kafka", *THREE])
def test_a_broker_says_where_it_is(name: str) -> None:
    """To the others, by its service's name; to this machine, by the port that is published; to all, by a valid id."""
    properties, (port,) = properties_of(name), SERVICES[name]["ports"]
    inside, outside = properties["advertised.listeners"].split(",")
    assert inside == f"PLAINTEXT://{name}:19092"
    assert port == f"127.0.0.1:{outside.removeprefix('HOST://localhost:')}:9092"
    voters = dict(each.split("@") for each in properties["controller.quorum.voters"].split(","))
    assert voters[properties["node.id"]] == f"{name}:29092"
    listeners = [each.split("://")[0] for each in properties["listeners"].split(",")]
    security = dict(each.split(":") for each in properties["listener.security.protocol.map"].split(","))
    assert set(listeners) == set(security)
    volume, directory = SERVICES[name]["volumes"][0].split(":")
    assert (directory, volume in COMPOSE["volumes"]) == (properties["log.dirs"], True)
    assert len(base64.urlsafe_b64decode(SERVICES[name]["environment"]["CLUSTER_ID"] + "==")) == 16


def test_every_profile_is_whole() -> None:
    """Brokers, topics and a worker, with commands and settings that exist; no two brokers of one share a port."""
    for profile, brokers in (("single", {"kafka"}), ("three", set(THREE))):
        services = {name: each for name, each in SERVICES.items() if profile in each["profiles"]}
        assert set(services) == brokers | {"init", "worker"}
        ports = [each["ports"][0] for each in services.values() if "ports" in each]
        assert len(set(ports)) == len(brokers)
    for name in ("init", "worker"):
        assert SERVICES[name]["command"][0] in COMMANDS
        for variable in SERVICES[name]["environment"]:
            assert variable.removeprefix("DLQ_").lower() in Settings.model_fields


def test_the_image_holds_what_the_package_is_built_from() -> None:
    """Every path that is copied into it exists, and so does what the build needs."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = [part for line in lines if line.startswith("COPY") for part in line.split()[1:-1]]
    for name in copied:
        assert (DEPLOY.parent / name).exists(), name
    assert {"pyproject.toml", "README.md", "LICENSE", "dlq_stream", "tables"} == set(copied)
