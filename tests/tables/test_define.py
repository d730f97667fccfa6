"""`define(app)`: what each table asks of Faust."""

from __future__ import annotations

from typing import Any

import pytest

from dlq_stream.tables import TABLES, attempts, messages, stats


class FakeApp:
    """Remembers what was asked of it."""

    def Table(self, name: str, **options: Any) -> tuple[str, dict[str, Any]]:
        return name, options


@pytest.mark.parametrize("table", [messages, attempts, stats])
def test_tables_are_raw_bytes_both_ways(table: Any) -> None:
    """Codecs are ours; the app's options are passed on."""
    name, options = table.define(FakeApp(), partitions=12)
    assert options == {"key_type": bytes, "value_type": bytes, "partitions": 12}
    assert [spec.name for spec in TABLES].count(name) == 1
    assert {spec.cleanup for spec in TABLES} == {"compact"}
