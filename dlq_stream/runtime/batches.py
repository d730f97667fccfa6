"""A staged transaction as record batches: what goes to which partition of which topic."""

from __future__ import annotations

import zlib

from dlq_stream.core.ids import murmur2
from dlq_stream.runtime.output_notes import noted, notes_of
from dlq_stream.runtime.ports import Batch, OutRecord
from dlq_stream.runtime.transaction import StagedTransaction, growth_bytes_max


def batches_of(
    tx: StagedTransaction, app_id: str, row_bytes_max: int, one_by_one: set[str]
) -> tuple[list[Batch], list[str]]:
    """Outputs by destination, then the changelogs of the tables named in the second value, last and in order."""
    by_target: dict[tuple[str, int], list[OutRecord]] = {}
    counts: dict[str, int] = {}
    for topic, partition, record in tx.outputs:
        if topic not in counts:
            counts[topic] = _partitions_of(tx, topic)
        if partition is None or partition >= counts[topic]:
            partition = _partition_by_key(record, counts[topic])
        by_target.setdefault((topic, partition), []).append(record)
    batches = []
    for (topic, partition), records in by_target.items():
        known = tx.destination(topic)
        bytes_max = known.record_bytes_max if known is not None else row_bytes_max
        batches.append(Batch(topic, partition, records, bytes_max, one_by_one=topic in one_by_one))
    tables = [table for table, rows in tx.writes.items() if rows]
    notes = notes_of(by_target)
    for table in tables:
        rows: list[OutRecord] = [(key, value, ()) for key, value in tx.writes[table].items()]
        if notes:
            rows = noted(rows, notes, row_bytes_max)
        bytes_max = row_bytes_max - growth_bytes_max(row_bytes_max)
        batches.append(Batch(f"{app_id}-{table}-changelog", tx.partition, rows, bytes_max, compress=True))
    return batches, tables


def _partitions_of(tx: StagedTransaction, topic: str) -> int:
    known = tx.destination(topic)
    return known.partitions if known is not None and known.partitions else tx.partitions


def _partition_by_key(record: OutRecord, partitions: int) -> int:
    """As Kafka's default partitioner; without a key by content, so that staging again decides the same."""
    key, value, _ = record
    if key is not None:
        return (murmur2(key) & 0x7FFFFFFF) % partitions
    return zlib.crc32(value or b"") % partitions
