"""The system's own topics: what they are, creating and verifying them."""
