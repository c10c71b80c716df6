"""Recorded: what providers' programs really said, and what our events of it are."""
