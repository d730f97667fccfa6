"""How an original record goes out: to its source topic, a retry topic or a ``-dlq`` topic.

Nearly every record fits as it is.  So it is sent first, and made smaller only where the transaction says that it is too
large: counting its bytes beforehand, too, would take as long as all the rest of sending.
"""

from __future__ import annotations

from dlq_stream.core.errors import TooLarge
from dlq_stream.core.model import Headers
from dlq_stream.core.outgoing import fit
from dlq_stream.core.transaction import Destination, Transaction
from dlq_stream.tables.attempts import Attempt
from dlq_stream.tables.messages import Message


def send_original(tx: Transaction, to: Destination, row: Message, first: Attempt, headers: Headers) -> None:
    """Stage the record that ``first`` holds with as many of ``headers`` as ``to`` takes, in its original partition.

    Where that partition does not exist any more, it goes by its key.  Raises `TooLarge` where the record does not even
    fit without what is optional, or the brokers found it too large, and `Refused`.
    """
    partition = row.origin_partition
    if partition is not None and partition >= to.partitions:
        partition = None
    try:
        tx.send(to.topic, first.key, first.value, headers, partition)
    except TooLarge:
        shorter = fit(headers, first.key, first.value, to.record_bytes_max)
        if shorter is None:
            raise TooLarge(f"topic {to.topic} takes records of {to.record_bytes_max} bytes") from None
        if shorter == headers:
            raise
        tx.send(to.topic, first.key, first.value, shorter, partition)
