"""Triton kernels on the CPU, through Triton's interpreter."""

import os

import pytest

# Triton decides when it is first imported, so these run in their own process, by tests/kernels/test_interpreted.py.
interpreted_only = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs through test_interpreted")
