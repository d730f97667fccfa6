"""Tests and benchmarks; `tests.kafka_fixture` and `tests.kafka_clients` are what the others build on."""
