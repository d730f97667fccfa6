"""The stream worker: settings become a Faust app with two agents and two timers.

* `stream`: the product in one page: topics, tables, agents, timers.
* `assembly`: puts together what the agents and timers stand on.
* `preparation`: what is checked before the worker joins its group.
* `run`: ``dlq-stream worker``; `app`: the same for ``faust -A dlq_stream.worker.app worker``.
"""
