"""Triton kernels on the CPU, through Triton's interpreter."""

import os

import pytest


def interpreting() -> bool:
    """Whether Triton runs kernels by its interpreter in this process."""
    return os.environ.get("TRITON_INTERPRET") == "1"


# Triton decides when it is first imported, so these run in their own process, by tests/kernels/test_interpreted.py.
interpreted_only = pytest.mark.skipif(not interpreting(), reason="runs through test_interpreted")
