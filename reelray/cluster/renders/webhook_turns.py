"""Whose turn it is to be told: receivers that are slow to listen wait for each other, and nobody waits for them."""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

OF_A_RECEIVER = 4
"""Tries at a time at one host and port."""
QUICK_AT_ONCE = 8
"""Tries that have not taken long yet."""
SLOW_AT_ONCE = 32
"""Tries that have, beside those."""
MOST_KNOWN = 1000


@dataclass(frozen=True, slots=True)
class _Try:
    receiver: str
    began_s: float


class WebhookTurns:
    """Of one server.

    Args:
        slow_s: A try that takes longer is slow, and so is its receiver until it has answered in less.
        clock: Monotonic seconds.
    """

    def __init__(self, slow_s: float, clock: Callable[[], float]) -> None:
        self._slow_s, self._clock = slow_s, clock
        self._tries: dict[Hashable, _Try] = {}
        self._slow: dict[str, None] = {}
        """The newest last."""

    def begin(self, name: Hashable, receiver: str) -> None:
        """A try begins."""
        self._tries[name] = _Try(receiver, self._clock())

    def end(self, name: Hashable) -> None:
        """It is over, however it ended."""
        over = self._tries.pop(name)
        self._slow.pop(over.receiver, None)
        if self._is_slow(over):
            self._slow[over.receiver] = None
            if len(self._slow) > MOST_KNOWN:
                del self._slow[next(iter(self._slow))]

    @property
    def free(self) -> int:
        """How many may begin now."""
        slow = sum(self._is_slow(one) for one in self._tries.values())
        return max(0, min(QUICK_AT_ONCE - (len(self._tries) - slow), QUICK_AT_ONCE + SLOW_AT_ONCE - len(self._tries)))

    def taken(self) -> dict[str, int]:
        """How much of its share each receiver has; a slow one has one try at a time, and none where many are slow."""
        taken = Counter(one.receiver for one in self._tries.values())
        slow = [one for one in self._tries.values() if self._is_slow(one)]
        known = {**self._slow, **dict.fromkeys(one.receiver for one in slow)}
        for receiver in known:
            taken[receiver] += OF_A_RECEIVER if len(slow) >= SLOW_AT_ONCE else OF_A_RECEIVER - 1
        return taken

    def _is_slow(self, one: _Try) -> bool:
        return self._clock() - one.began_s > self._slow_s
