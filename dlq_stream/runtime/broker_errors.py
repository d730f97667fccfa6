"""What errors of aiokafka's producer mean: refused for good, to be tried again, or taken over by somebody else."""

from __future__ import annotations

from collections.abc import Mapping

from aiokafka import errors

from dlq_stream.runtime.ports import TOO_LARGE

_TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
_WHOLE_DESTINATION: Mapping[type[BaseException], str] = {
    errors.TopicAuthorizationFailedError: "not-authorised",
    errors.InvalidTopicError: "invalid-name",
    errors.PolicyViolationError: "policy-violation",
}
FENCED = (errors.ProducerFenced, errors.InvalidProducerEpoch)
_AWAY = (
    errors.KafkaConnectionError,
    errors.KafkaTimeoutError,
    errors.RequestTimedOutError,
    errors.NodeNotReadyError,
    errors.UnknownTopicOrPartitionError,
    errors.NotLeaderForPartitionError,
    errors.LeaderNotAvailableError,
    TimeoutError,
    OSError,
)
_BROKEN = (
    errors.OutOfOrderSequenceNumber,
    errors.UnknownProducerId,
    errors.InvalidProducerIdMapping,
    errors.InvalidTxnState,
    errors.ProducerClosed,
)
"""Nothing is wrong with a record: the producer or its transaction is void, and a new one goes on."""


def refusal_of(error: BaseException) -> tuple[bool, str]:
    """Whether the whole destination is refused, and why; raises what is no refusal.

    aiokafka does not know every error (INVALID_RECORD is one): a record for which a broker has nothing else to say is
    refused, lest it come back for ever.
    """
    if not isinstance(error, errors.KafkaError) or isinstance(error, FENCED) or is_away(error):
        raise error
    if why := _WHOLE_DESTINATION.get(type(error)):
        return True, why
    return False, TOO_LARGE if isinstance(error, _TOO_LARGE) else f"invalid-record ({error!r})"


def is_unreachable(error: BaseException) -> bool:
    """Whether brokers are away."""
    return isinstance(error, _AWAY)


def is_away(error: BaseException) -> bool:
    """Whether to try again: brokers are away, or the producer is void.

    aiokafka says a bare `KafkaError` when a connection is lost while a coordinator is looked for.
    """
    return is_unreachable(error) or isinstance(error, _BROKEN) or type(error) is errors.KafkaError
