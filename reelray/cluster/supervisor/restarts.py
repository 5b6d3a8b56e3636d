"""When a lost server is started again, and when that is given up."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RestartRule:
    """How patient a supervisor is.

    Args:
        first_wait_s: Before the first start after a loss; twice as long after each further one in a row.
        longest_wait_s: Of those waits.
        most_losses: So many in a row and it gives up.
        calm_s: A server that was ready for so long ends the row.
    """

    first_wait_s: float = 0.2
    longest_wait_s: float = 10.0
    most_losses: int = 5
    calm_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("first_wait_s", "longest_wait_s", "most_losses", "calm_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be greater than 0")


class Restarts:
    """Counts losses in a row.

    Args:
        rule: How patient to be.
    """

    def __init__(self, rule: RestartRule) -> None:
        self._rule = rule
        self.in_a_row = 0

    def lost(self, ready_for_s: float) -> float | None:
        """After a loss.

        Args:
            ready_for_s: How long the server had been ready; 0 if it never was.

        Returns:
            How long to wait before the next start; None where it is given up.
        """
        rule = self._rule
        self.in_a_row = 1 if ready_for_s >= rule.calm_s else self.in_a_row + 1
        if self.in_a_row >= rule.most_losses:
            return None
        return min(rule.first_wait_s * 2.0 ** (self.in_a_row - 1), rule.longest_wait_s)
