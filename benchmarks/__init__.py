"""Measured claims: each case checks correctness first, then times both sides interleaved in one process."""
