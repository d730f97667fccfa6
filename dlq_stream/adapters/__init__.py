"""The reporter fitted into frameworks that call the handler themselves; each adapter needs its library, and none is
loaded before it is asked for.

* `dlq_stream.adapters.faust`: a decorator for agents of an existing Faust app.
* `dlq_stream.adapters.faststream`: a middleware for FastStream's Kafka broker.
* `dlq_stream.adapters.confluent`: the loop around a confluent-kafka consumer.

All of them keep one rule: an offset is committed only after the brokers have acknowledged what became of the record.
While they do not, an adapter holds on to it (`dlq_stream.adapters.holding`), and the partition waits.
"""
