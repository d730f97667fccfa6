"""The command line of dlq-stream."""
