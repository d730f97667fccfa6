"""`deploy/asyncapi.yaml` as a value, and judges made of it.

AsyncAPI's own JSON schema comes in no package of PyPI's, so the structure is judged by the lists below, which hold what
the specification (3.0.0) allows of what we use.  Schemas of messages are judged by jsonschema, taught our extensions.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator, ValidationError, validators

from dlq_stream.core import headers as names
from dlq_stream.core.model import Headers

PATH = Path(__file__).parents[2] / "deploy" / "asyncapi.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(PATH.read_text("utf-8"))
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]
VECTORS: dict[str, Any] = DOCUMENT["x-test-vectors"]

# By kind of object: what it must have, and what it may have besides; extensions (x-...) are allowed everywhere.
ABOUT = {"title", "summary", "description", "tags", "externalDocs", "bindings"}
FIELDS: Mapping[str, tuple[set[str], set[str]]] = {
    "document": (
        {"asyncapi", "info"},
        {"id", "servers", "defaultContentType", "channels", "operations", "components"},
    ),
    "info": ({"title", "version"}, {"description", "termsOfService", "contact", "license", "tags", "externalDocs"}),
    "channel": (set(), {"address", "messages", "servers", "parameters"} | ABOUT),
    "operation": ({"action", "channel"}, {"messages", "security", "traits", "reply"} | ABOUT),
    "parameter": (set(), {"enum", "default", "description", "examples", "location"}),
    "message": (set(), {"headers", "payload", "correlationId", "contentType", "name", "examples", "traits"} | ABOUT),
    "example": (set(), {"headers", "payload", "name", "summary"}),
    "components": (set(), {"schemas", "messages", "parameters"}),
}

RAW = (names.ORIGINAL_KEY, names.UNDECODABLE)
"""Headers of raw bytes, which the document shows in base64."""

LENIENT = (names.ERROR_TYPE, names.ERROR_CAUSE_TYPE, names.ERROR_MESSAGE, names.ERROR_STACKTRACE, names.METADATA)
"""Headers that may hold what is not UTF-8."""


def structural_faults() -> Iterator[str]:
    """What is wrong with the document by the specification's structure; nothing where it is right."""
    components = DOCUMENT["components"]
    parts = [("document", "document", DOCUMENT), ("info", "info", DOCUMENT["info"])]
    parts += [("components", "components", components)]
    for kind, section in (
        ("channel", DOCUMENT["channels"]),
        ("operation", DOCUMENT["operations"]),
        ("parameter", components["parameters"]),
        ("message", components["messages"]),
    ):
        parts += [(kind, name, part) for name, part in section.items()]
    for name, message in components["messages"].items():
        parts += [("example", f"{name}'s example", example) for example in message["examples"]]
        yield from (
            f"{name}: an example without content" for e in message["examples"] if not e.keys() & {"headers", "payload"}
        )
    for kind, name, part in parts:
        needed, allowed = FIELDS[kind]
        yield from (f"{name}: lacks {field}" for field in needed - part.keys())
        unknown = {field for field in part if not field.startswith("x-")} - needed - allowed
        yield from (f"{name}: {field} is not a field of a {kind}" for field in unknown)
    for name in (name for section in components.values() for name in section):
        if not re.fullmatch(r"[a-zA-Z0-9._-]+", name):
            yield f"{name}: not the name of a component"


def references(part: Any = DOCUMENT) -> Iterator[str]:
    """Every reference of the document."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from references(each)


def at(reference: str) -> Any:
    """What a reference leads to; KeyError where that is nothing."""
    found: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    # To JSON Schema (ECMA 262) $ is the very end; to Python also what is before a last line feed.
    if isinstance(instance, str) and not re.search(pattern.replace("$", r"\Z"), instance):
        yield ValidationError(f"{instance!r} is not {pattern}")


def _maximum(_: Any, most: int, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and re.fullmatch(r"[0-9]+", instance) and int(instance) > most:
        yield ValidationError(f"{instance} is more than {most}")


def _bytes_max(_: Any, most: int, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and len(instance.encode("utf-8", "surrogatepass")) > most:
        yield ValidationError(f"{instance!r} has more than {most} bytes")


def _is_integer(_: Any, instance: object) -> bool:
    return type(instance) is int  # the contract's is without a fraction, JSON Schema's may say .0


_Judge = validators.extend(
    Draft7Validator,
    {"pattern": _pattern, "x-maximum": _maximum, "x-bytes-max": _bytes_max},
    type_checker=Draft7Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


def judge_of(reference: str) -> Any:
    """A validator of what ``reference`` leads to."""
    return _Judge({"$ref": reference, "components": DOCUMENT["components"]})


def described(headers: Headers) -> dict[str, str | None]:
    """Our headers as the document describes them; one that has to be UTF-8 and is not is null, which it may not be."""
    found: dict[str, str | None] = {}
    for name, raw in dict(header for header in headers if header[0] in names.OWN_HEADERS).items():
        if raw is None:
            if name in RAW:
                found[name] = None
        elif name in RAW:
            found[name] = base64.b64encode(raw).decode()
        else:
            try:
                found[name] = raw.decode("utf-8", "replace" if name in LENIENT else "strict")
            except UnicodeDecodeError:
                found[name] = None
    if category := found.get(names.CATEGORY):
        found[names.CATEGORY] = category.lower()  # "either case is read"
    return found
