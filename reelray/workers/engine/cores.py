"""Cores of this machine, and how processes share them."""

import os


def count_cores() -> int:
    """Logical cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(ranks: int) -> int:
    """Threads of each rank when all of them compute on this machine."""
    return max(1, count_cores() // ranks)
