"""Splitting one video's work over ranks."""
