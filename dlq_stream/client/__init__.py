"""What agents import to report failures. Never imports Faust."""
