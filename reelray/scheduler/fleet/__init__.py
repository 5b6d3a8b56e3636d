"""Decides which engine runs which request: pure, with the time given."""
