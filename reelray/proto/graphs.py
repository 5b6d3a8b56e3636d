"""What workers and the plan know of forwards that are recorded as CUDA graphs."""

GRAPH_TOKENS = 16384
"""Forwards of more tokens on one rank are bound by the device and not captured."""
