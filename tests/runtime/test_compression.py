"""Record batches of changelogs: smaller, at the level that is wanted, and readable."""

from __future__ import annotations

import random
import sys

from aiokafka.codec import zstd_encode
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from dlq_stream.runtime.compression import ZSTD_LEVEL, install

RANDOM = random.Random(1)
WORDS = [RANDOM.randbytes(RANDOM.randint(2, 9)) for _ in range(300)]
ROWS = [(b"%016d" % number, b" ".join(RANDOM.choices(WORDS, k=200))) for number in range(100)]


def record_batch() -> bytes:
    """The rows as they go to the brokers."""
    builder = BatchBuilder(1 << 20, DefaultRecordBatch.CODEC_ZSTD)
    for key, value in ROWS:
        assert builder.append(timestamp=1, key=key, value=value, headers=[]) is not None
    builder.close()
    return bytes(builder._build())


def test_batches_are_compressed_at_the_chosen_level() -> None:
    """aiokafka has no setting for it, so what it calls is replaced."""
    payload = b"".join(value for _, value in ROWS)
    assert zstd_encode(payload, level=ZSTD_LEVEL) != zstd_encode(payload), "the data must tell levels apart"
    install()
    install()
    builder = sys.modules[DefaultRecordBatchBuilder.__module__]
    assert builder.zstd_encode(payload) == zstd_encode(payload, level=ZSTD_LEVEL)  # type: ignore[attr-defined]
    before = sum(len(key) + len(value) for key, value in ROWS)
    assert len(record_batch()) < before / 2


def test_they_are_read_as_ever() -> None:
    """The level is nothing that a reader has to know."""
    install()
    batch = MemoryRecords(record_batch()).next_batch()
    assert [(record.key, record.value) for record in batch] == ROWS
