"""Random numbers that are the same on every machine and in every version of Python."""

from math import log

MASK = (1 << 64) - 1


class Draws:
    """SplitMix64 (Steele, Lea, Flood 2014).

    Args:
        seed: Any integer.
    """

    def __init__(self, seed: int) -> None:
        self._state = seed & MASK

    def uniform(self) -> float:
        """In [0, 1)."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        return ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)

    def wait(self, rate: float) -> float:
        """Seconds until the next of events that come `rate` times a second, independent of each other."""
        return -log(1.0 - self.uniform()) / rate
