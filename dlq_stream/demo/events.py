"""The demo's input: readings of furnaces, boilers and heat exchangers, the n-th of which depends on the seed alone.

Each event is generated on its own (no stream of random numbers runs through them), so the producer, the agent and the
verdict agree on event 2,317 without having seen the 2,316 before it.  About one in thirty violates the schema in a way
that no retry can cure; the generator knows which (`is_violation`), the agent has to find out by `validated`, and the
verdict compares.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from dlq_stream.core.model import Headers

VIOLATIONS_PER_EVENT = 0.03
_FIRST_INSTANT = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)  # a fixed shift start: wall clocks would not be reproducible


class SchemaViolation(ValueError):
    """A reading that does not follow the schema.  It will not follow it next time either."""


@dataclass(frozen=True, slots=True)
class HeatEvent:
    """One event as it is written: ``key`` is the asset, ``value`` JSON, one of the headers repeats."""

    number: int
    event_id: str
    key: bytes
    value: bytes
    headers: Headers
    is_violation: bool


@dataclass(frozen=True, slots=True)
class Quantity:
    """One measured quantity of a kind of asset: where it usually is, and what is physically possible."""

    name: str
    usual: float
    spread: float
    lowest: float
    highest: float


ASSETS: dict[str, tuple[str, tuple[Quantity, ...]]] = {
    "furnace": (
        "FRN",
        (
            Quantity("chamber_temperature_c", 1180.0, 35.0, 0.0, 1800.0),
            Quantity("flue_gas_temperature_c", 420.0, 20.0, 0.0, 1200.0),
            Quantity("oxygen_percent", 3.2, 0.4, 0.0, 21.0),
            Quantity("fuel_flow_m3_per_h", 310.0, 25.0, 0.0, 2000.0),
        ),
    ),
    "boiler": (
        "BLR",
        (
            Quantity("steam_pressure_bar", 41.5, 1.2, 0.0, 160.0),
            Quantity("steam_temperature_c", 402.0, 6.0, 0.0, 620.0),
            Quantity("feedwater_flow_t_per_h", 58.0, 4.0, 0.0, 500.0),
            Quantity("drum_level_mm", 4.0, 18.0, -400.0, 400.0),
        ),
    ),
    "heat-exchanger": (
        "HEX",
        (
            Quantity("hot_inlet_temperature_c", 186.0, 5.0, 0.0, 600.0),
            Quantity("hot_outlet_temperature_c", 112.0, 4.0, 0.0, 600.0),
            Quantity("cold_inlet_temperature_c", 34.0, 3.0, 0.0, 400.0),
            Quantity("cold_outlet_temperature_c", 88.0, 4.0, 0.0, 400.0),
        ),
    ),
}
UNITS_PER_KIND = 8


def event(seed: int, number: int) -> HeatEvent:
    """The event with this number, 0 for the first."""
    dice = Random(f"{seed}/{number}")
    kind = dice.choice(sorted(ASSETS))
    code, quantities = ASSETS[kind]
    asset = f"{code}-{dice.randrange(UNITS_PER_KIND) + 1:02d}"
    event_id = f"{asset}-{number:07d}"
    body: dict[str, Any] = {
        "event_id": event_id,
        "asset_id": asset,
        "asset_kind": kind,
        "site": "Works Nord",
        "measured_at": (_FIRST_INSTANT + timedelta(milliseconds=20 * number)).isoformat(),
        "readings": {each.name: round(_reading(dice, each), 2) for each in quantities},
    }
    is_violation = dice.random() < VIOLATIONS_PER_EVENT
    if is_violation:
        dice.choice(_SPOILERS)(body, dice)
    value = json.dumps(body, separators=(",", ":")).encode()
    headers = (
        ("content-type", b"application/json"),
        ("hop", f"fieldbus-{dice.randrange(6)}".encode()),
        ("hop", b"edge-gateway"),
    )
    return HeatEvent(number, event_id, asset.encode(), value, headers, is_violation)


def validated(value: bytes | None) -> dict[str, Any]:
    """The event in ``value``.  Raises SchemaViolation that says what is wrong with it."""
    try:
        body = json.loads(value or b"")
    except (ValueError, RecursionError) as error:
        raise SchemaViolation("the value is not JSON") from error
    if not isinstance(body, dict) or not isinstance(body.get("readings"), dict):
        raise SchemaViolation("no readings")
    if (kind := body.get("asset_kind")) not in ASSETS:
        raise SchemaViolation(f"unknown kind of asset {kind!r}")
    for quantity in ASSETS[kind][1]:
        _check(body["readings"], quantity)
    return body


def event_id_of(value: bytes | None) -> str:
    """The id in a value that may be anything; empty where there is none."""
    try:
        found = json.loads(value or b"")["event_id"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""


def _reading(dice: Random, quantity: Quantity) -> float:
    return min(max(dice.gauss(quantity.usual, quantity.spread), quantity.lowest), quantity.highest)


def _check(readings: dict[str, Any], quantity: Quantity) -> None:
    if quantity.name not in readings:
        raise SchemaViolation(f"{quantity.name} is missing")
    found = readings[quantity.name]
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise SchemaViolation(f"{quantity.name} is {found!r}, not a number")
    if not quantity.lowest <= found <= quantity.highest:
        raise SchemaViolation(f"{quantity.name} is {found}, outside {quantity.lowest:g} to {quantity.highest:g}")


def _drop_reading(body: dict[str, Any], dice: Random) -> None:
    """A field that a firmware update renamed."""
    del body["readings"][dice.choice(sorted(body["readings"]))]


def _write_text(body: dict[str, Any], dice: Random) -> None:
    """A gateway that writes what a display would show."""
    body["readings"][dice.choice(sorted(body["readings"]))] = "n/a"


def _break_sensor(body: dict[str, Any], dice: Random) -> None:
    """The value that a broken wire reads as."""
    body["readings"][dice.choice(sorted(body["readings"]))] = -32768


def _rename_kind(body: dict[str, Any], dice: Random) -> None:
    """An asset that nobody told the schema of."""
    body["asset_kind"] = dice.choice(("heatpump", "kiln"))


_SPOILERS: tuple[Callable[[dict[str, Any], Random], None], ...] = (
    _drop_reading,
    _write_text,
    _break_sensor,
    _rename_kind,
)
