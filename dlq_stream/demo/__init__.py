"""The demonstration: real processes, a real broker, a verdict computed from Kafka alone."""
