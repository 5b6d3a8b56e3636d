"""Ranks that work on one video together: the mesh, the token split, and what travels between ranks."""
