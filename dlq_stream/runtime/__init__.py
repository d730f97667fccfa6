"""Faust made exactly-once: one Kafka transaction per batch and partition, on stock at-least-once Faust.

Faust keeps what it is good at: group membership, co-partitioned assignment, topics, agents, tables with changelogs,
web.  Between the agents and timers and Kafka stands this package:

* `partition`, `transaction`, `batches`, `turns`, `outcomes`: one partition as an actor.  They know neither Faust nor
  aiokafka; producer, store, changelog and clock are the protocols of `ports`, so the simulation runs this very code
  over a fake broker.
* `rocks`, `changelog`, `producer`, `destinations`: the real parts behind these protocols, on RocksDB and aiokafka.
* `owner`, `feed`: which partitions this worker has, their timers, and their input on its way into turns.
* `app`, `process`, `consumer`, `recovery`, `transport`, `store`, `versions`: the only code that knows Faust's insides.
"""
