"""Addresses of others that a server speaks to: only those that it was told to trust, and never further in."""
