"""Faust made exactly-once: everything that knows transactions, fencing and recovery."""
