"""The app's topics: their names, what they should be like, creating and verifying them, and the markers in them.

Only `init` creates topics.  A worker verifies them before it joins the group, because it would otherwise run for hours
on something that loses or repeats messages: a changelog without compaction, a partition count of somebody else's, too
few copies.
"""

from dlq_stream.topics.names import AppTopics
from dlq_stream.topics.plan import Expectation, PlannedTopic, plan
from dlq_stream.topics.policies import read_policies, write_policies
from dlq_stream.topics.provision import Provisioned, Verified, create_or_verify, create_retry_topics, verify
from dlq_stream.topics.sources import SourceReport

__all__ = [
    "AppTopics",
    "Expectation",
    "PlannedTopic",
    "Provisioned",
    "SourceReport",
    "Verified",
    "create_or_verify",
    "create_retry_topics",
    "plan",
    "read_policies",
    "verify",
    "write_policies",
]
