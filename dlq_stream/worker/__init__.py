"""The Faust app: topics, agents and timers, put together from settings."""
