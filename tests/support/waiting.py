"""Waiting for what happens elsewhere."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_until(look: Callable[[], Found], *, within_s: float = 60.0, pause_s: float = 0.02) -> Found:
    """Look until there is something; returns what made it true. Quick machines wait no longer than they must."""
    end_s = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < end_s, "nothing happened"
        time.sleep(pause_s)
    return found
