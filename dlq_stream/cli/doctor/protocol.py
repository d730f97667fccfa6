"""Questions to brokers that aiokafka has no words for: all of them only look.

Schemas are those of Kafka's message definitions (``clients/src/main/resources/common/message``).
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response, ResponseHeader_v0
from aiokafka.protocol.types import (
    Array,
    Boolean,
    Bytes,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)

_TEXT = String("utf-8")
_COMPACT_TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)

NOT_TOLD = -(1 << 31)
"""Authorized operations where the brokers do not tell them."""

# ------------------------------------------------------------------------------------------------ ApiVersions (KIP-584)

_FEATURES_TAG = 2
_FEATURES = CompactArray(("name", _COMPACT_TEXT), ("max", Int16), ("min", Int16), _TAGS)


class ApiVersionsResponseV3(Response):
    """Which requests a broker takes, and the features that the cluster has agreed on, as a tagged field."""

    API_KEY = 18
    API_VERSION = 3
    SCHEMA = Schema(
        ("error_code", Int16),
        ("api_keys", CompactArray(("api_key", Int16), ("min_version", Int16), ("max_version", Int16), _TAGS)),
        ("throttle_time_ms", Int32),
        _TAGS,
    )


class ApiVersionsRequestV3(RequestStruct):
    """KIP-511 and KIP-584."""

    API_KEY = 18
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = ApiVersionsResponseV3
    SCHEMA = Schema(("client_software_name", _COMPACT_TEXT), ("client_software_version", _COMPACT_TEXT), _TAGS)

    def parse_response_header(self, read_buffer: BytesIO | bytes) -> Any:
        """Removes: a header with tags; the answer to this request alone never has one (KIP-511)."""
        return ResponseHeader_v0.decode(read_buffer)


class ApiVersionsRequest(Request[ApiVersionsRequestV3]):
    """What a broker can do, and as which version the cluster behaves."""

    API_KEY = 18

    def build(self, request_struct_class: type[ApiVersionsRequestV3]) -> ApiVersionsRequestV3:
        """See `Request.build`."""
        return request_struct_class("dlq-stream", "doctor", {})


def features_of(answer: Any) -> dict[str, int]:
    """The levels of the cluster's finalized features; ``metadata.version`` is Kafka's own."""
    raw = answer.tags.get(_FEATURES_TAG)
    return {name: level for name, level, _, _ in _FEATURES.decode(BytesIO(raw))} if raw else {}


# ------------------------------------------------------------------------------------------------- Metadata (KIP-430)


class MetadataResponseV8(Response):
    """Topics with their partitions, and what whoever asks may do with them."""

    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT))),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", _TEXT),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class MetadataRequestV8(RequestStruct):
    """KIP-430."""

    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = MetadataResponseV8
    SCHEMA = Schema(
        ("topics", Array(_TEXT)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class RightsRequest(Request[MetadataRequestV8]):
    """Topics as they are, and the operations that whoever asks may do; creates nothing."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: type[MetadataRequestV8]) -> MetadataRequestV8:
        """See `Request.build`."""
        return request_struct_class(self._topics, False, True, True)


# -------------------------------------------------------------------------------------------- DescribeGroups (KIP-345)


class DescribeGroupsResponseV4(Response):
    """A group with its members, static ones by the name that they were given."""

    API_KEY = 15
    API_VERSION = 4
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group", _TEXT),
                ("state", _TEXT),
                ("protocol_type", _TEXT),
                ("protocol", _TEXT),
                (
                    "members",
                    Array(
                        ("member_id", _TEXT),
                        ("instance_id", _TEXT),
                        ("client_id", _TEXT),
                        ("client_host", _TEXT),
                        ("metadata", Bytes),
                        ("assignment", Bytes),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
    )


class DescribeGroupsRequestV4(RequestStruct):
    """KIP-345."""

    API_KEY = 15
    API_VERSION = 4
    RESPONSE_TYPE = DescribeGroupsResponseV4
    SCHEMA = Schema(("groups", Array(_TEXT)), ("include_authorized_operations", Boolean))


class DescribeGroupRequest(Request[DescribeGroupsRequestV4]):
    """A consumer group as its coordinator sees it."""

    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[DescribeGroupsRequestV4]) -> DescribeGroupsRequestV4:
        """See `Request.build`."""
        return request_struct_class([self._group], True)


# ---------------------------------------------------------------------------------------------- transactions (KIP-664)


class DescribeProducersResponseV0(Response):
    """The producers that a partition's leader knows, and where the open transaction of each began."""

    API_KEY = 61
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _COMPACT_TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("error_message", _COMPACT_TEXT),
                        (
                            "producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("current_txn_start_offset", Int64),
                                _TAGS,
                            ),
                        ),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class DescribeProducersRequestV0(RequestStruct):
    """KIP-664."""

    API_KEY = 61
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = DescribeProducersResponseV0
    SCHEMA = Schema(
        ("topics", CompactArray(("topic", _COMPACT_TEXT), ("partitions", CompactArray(Int32)), _TAGS)), _TAGS
    )


class DescribeProducersRequest(Request[DescribeProducersRequestV0]):
    """Who writes to a partition."""

    API_KEY = 61

    def __init__(self, topic: str, partition: int) -> None:
        self._place = topic, partition

    def build(self, request_struct_class: type[DescribeProducersRequestV0]) -> DescribeProducersRequestV0:
        """See `Request.build`."""
        topic, partition = self._place
        return request_struct_class([(topic, [partition], {})], {})


class ListTransactionsResponseV0(Response):
    """The transactional ids that a broker coordinates."""

    API_KEY = 66
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_state_filters", CompactArray(_COMPACT_TEXT)),
        (
            "transaction_states",
            CompactArray(("transactional_id", _COMPACT_TEXT), ("producer_id", Int64), ("state", _COMPACT_TEXT), _TAGS),
        ),
        _TAGS,
    )


class ListTransactionsRequestV0(RequestStruct):
    """KIP-664."""

    API_KEY = 66
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = ListTransactionsResponseV0
    SCHEMA = Schema(("state_filters", CompactArray(_COMPACT_TEXT)), ("producer_ids", CompactArray(Int64)), _TAGS)


class ListTransactionsRequest(Request[ListTransactionsRequestV0]):
    """Which transactional ids these producers have."""

    API_KEY = 66

    def __init__(self, producer_ids: Sequence[int]) -> None:
        self._producer_ids = list(producer_ids)

    def build(self, request_struct_class: type[ListTransactionsRequestV0]) -> ListTransactionsRequestV0:
        """See `Request.build`."""
        return request_struct_class([], self._producer_ids, {})


# ---------------------------------------------------------------------------------------------- the quorum (KIP-836)

_REPLICAS = CompactArray(
    ("replica_id", Int32),
    ("log_end_offset", Int64),
    ("last_fetch_timestamp", Int64),
    ("last_caught_up_timestamp", Int64),
    _TAGS,
)


class DescribeQuorumResponseV1(Response):
    """The controllers; the leader's own ``last_fetch_timestamp`` is its clock at the moment of the answer."""

    API_KEY = 55
    API_VERSION = 1
    SCHEMA = Schema(
        ("error_code", Int16),
        (
            "topics",
            CompactArray(
                ("topic", _COMPACT_TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("high_watermark", Int64),
                        ("voters", _REPLICAS),
                        ("observers", _REPLICAS),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class DescribeQuorumRequestV1(RequestStruct):
    """KIP-595 and KIP-836."""

    API_KEY = 55
    API_VERSION = 1
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = DescribeQuorumResponseV1
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic", _COMPACT_TEXT), ("partitions", CompactArray(("partition", Int32), _TAGS)), _TAGS),
        ),
        _TAGS,
    )


class DescribeQuorumRequest(Request[DescribeQuorumRequestV1]):
    """How the controllers are."""

    API_KEY = 55

    def build(self, request_struct_class: type[DescribeQuorumRequestV1]) -> DescribeQuorumRequestV1:
        """See `Request.build`."""
        return request_struct_class([("__cluster_metadata", [(0, {})], {})], {})
