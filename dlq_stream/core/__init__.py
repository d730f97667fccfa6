"""The rules of the system, as pure functions over plain values: standard library only."""
