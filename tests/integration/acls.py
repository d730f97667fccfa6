"""Taking rights away and giving them back, on a broker made with ``authorizer=True``.

Everybody is ``User:ANONYMOUS`` there.  What has no ACL is open; what has one is open only as far as its ACLs say.
"""

from __future__ import annotations

from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest

from tests.kafka_clients import admin, check

# From the protocol's enumerations: ResourceType, PatternType, AclOperation, AclPermissionType.
TOPIC, CLUSTER = 2, 4
LITERAL = 3
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
