"""The state layer: one module per table. Imported as dlq_stream.tables."""
