"""Drives the fleet for real: one coordinator, and the houses of engines that carry out what it decides."""
