"""The rules of the system, as pure functions over plain values.

Core decides; it never acts.  It says what an event means, what state follows, when a retry is due, what an error is
and what a record's headers must look like, and returns the answer as a value.  It refuses to know Kafka clients,
storage, clocks, dice, logs and settings files: time and chance are arguments, and only the standard library is
imported.  So every rule can be tested by calling it, and the worker, the embedded engine, the simulation and the
clients share one copy of each.
"""
