"""Taking rights away and giving them, on brokers where ACLs count.

Made with ``authorizer=True``, everybody is ``User:ANONYMOUS``: what has no ACL is open, what has one is open only as
far as its ACLs say (`forbid`, `allow_again`).  Made with ``security``, users have names, and what no ACL allows is
forbidden (`allow`).
"""

from __future__ import annotations

from collections.abc import Iterable

from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest

from dlq_stream.core.connection import Brokers
from dlq_stream.topics.acls import Right
from tests.kafka_clients import admin, check

# From the protocol's enumerations: ResourceType, PatternType, AclOperation, AclPermissionType.
TOPIC, CLUSTER = 2, 4
LITERAL, PREFIXED = 3, 4
ANY, ALL, WRITE, CREATE = 1, 2, 4, 5
DENY, ALLOW = 2, 3

EVERYBODY = "User:ANONYMOUS"
THE_CLUSTER = "kafka-cluster"


async def forbid(bootstrap: str, name: str, operation: int, *, kind: int = TOPIC) -> None:
    """Allow everything with this topic (or the cluster) but one operation."""
    async with admin(bootstrap) as client:
        for what, permission in ((ALL, ALLOW), (operation, DENY)):
            request = CreateAclsRequest(kind, name, LITERAL, EVERYBODY, "*", what, permission)
            answer = await client._send_request(request)
            check([(name, *answered) for answered in answer.creation_responses])


async def allow_again(bootstrap: str, name: str, *, kind: int = TOPIC) -> None:
    """Delete every ACL of this topic (or the cluster)."""
    async with admin(bootstrap) as client:
        answer = await client._send_request(DeleteAclsRequest(kind, name, LITERAL, EVERYBODY, "*", ANY, ANY))
        check([(name, *answered[:2]) for answered in answer.filter_responses])


KINDS = {"topic": 2, "group": 3, "cluster": 4, "transactional-id": 5}
OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}


async def allow(bootstrap: Brokers, rights: Iterable[Right]) -> None:
    """Give each role's user, ``dlq-`` and the role, these rights."""
    async with admin(bootstrap) as client:
        for right in rights:
            pattern = PREFIXED if right.is_prefix else LITERAL
            for operation in right.operations:
                what = (KINDS[right.kind], right.literal, pattern, f"User:dlq-{right.role}", "*")
                answer = await client._send_request(CreateAclsRequest(*what, OPERATIONS[operation], ALLOW))
                check([(right.name, *answered) for answered in answer.creation_responses])
