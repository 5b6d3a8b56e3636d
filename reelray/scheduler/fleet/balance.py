"""How promises and renders share the GPUs.

Promises get all they need to be kept, up to their share of the GPUs; renders keep the rest while there are some. While
all promises hold with time to spare, tenants have their turns, whether they were promised something or not.
"""

from math import ceil

from reelray.scheduler.fleet.engine_lines import EngineLines
from reelray.scheduler.fleet.entry import Entry
from reelray.scheduler.fleet.fair_line import FairLine
from reelray.scheduler.fleet.policy import FleetPolicy
from reelray.scheduler.fleet.promise_line import PromiseLine
from reelray.scheduler.fleet.running import Running

LOOK_S = 0.05
"""The time that promises have to spare is looked at no more often than that."""


class Balance:
    """The shares of one pool.

    Args:
        policy: The rules.
        promises: Tickets with promises.
        fair: Tickets without.
        lines: Tickets that wait for one engine.
        running: What runs.
    """

    def __init__(
        self, policy: FleetPolicy, *, promises: PromiseLine, fair: FairLine, lines: EngineLines, running: Running
    ) -> None:
        self._policy = policy
        self._promises = promises
        self._fair = fair
        self._lines = lines
        self._running = running
        self._victims = running.victims
        self._gpus = 0
        self._render_gpus = 0

    @property
    def kept_gpus(self) -> int:
        """GPUs that renders keep while there are some; on fewer than five GPUs none."""
        return self._render_gpus if len(self._fair) or self._victims.gpus else 0

    @property
    def most_gpus(self) -> int:
        """GPUs that promises have together, while renders keep theirs."""
        return self._gpus - self._render_gpus

    @property
    def stoppable_gpus(self) -> int:
        """GPUs of renders that make room for people, those included that are doing so."""
        return max(0, self._victims.gpus - self.kept_gpus)

    def resize(self, gpus: int, now: float) -> None:
        """Share so many GPUs from now on."""
        promised = self._policy.promise_share * gpus
        self._gpus = gpus
        self._render_gpus = round(gpus - promised)
        self._promises.resize(min(promised, self.most_gpus), now)

    def wanted_gpus(self, now: float) -> int:
        """GPUs to be freed for promises that wait."""
        wanted = self._promises.urgent_gpus(now)
        if self._slack_s(now) <= 0.0:
            idle = ceil(self._promises.gpus) - self._running.promised_gpus
            wanted = max(wanted, min(idle, self._promises.needed_gpus))
        return wanted

    def goes_before(self, fair: Entry, promised: Entry, now: float) -> bool:
        """Whether the first without a promise goes before the first that has one."""
        gpus = self._running.promised_gpus
        if gpus and gpus + promised.need > self._gpus - self.kept_gpus:  # one that needs them all takes turns
            return True
        if promised.ticket.is_interactive or not self._fair.has_turn_before(fair, promised.ticket.tenant):
            return False
        spare_s = fair.work_s + (1.0 - self._policy.promise_share) * self._promises.work_s
        return self._slack_s(now) >= spare_s

    def choose_gpus(self, entry: Entry, free: int, *, each: int) -> int:
        """Few GPUs each while many wait, many while few do; never more than make it faster.

        Args:
            entry: What begins.
            free: GPUs that it may have.
            each: Free GPUs for each that waits.
        """
        if not self._policy.widens:
            return entry.need
        share = min(free, max(entry.need, each))
        if entry.is_promised:  # it cannot be stopped: others who wait in front of a screen find room beside it
            room = int(self._policy.wide_share * self._gpus) - self._running.promised_gpus
            share = min(share, max(entry.need, room))
        allowed = [gpus for gpus in entry.options if entry.need <= gpus <= share]
        return min(allowed, key=lambda gpus: (entry.ticket.seconds[gpus], gpus), default=entry.need)

    def wake_s(self, now: float) -> float:
        """When promises need another look although nothing happens; infinite where they do not."""
        first = self._promises.peek()
        if first is None or first.latest_s is None:
            return float("inf")
        due = [self._promises.turns_urgent_s(), self._policy.late_s(first.latest_s)]
        slack_s, idle = self._slack_s(now), self._promises.gpus - self._running.horizon.busy_gpus(now)
        if slack_s > 0.0 and idle > 0.0:
            due.append(now + max(slack_s / idle, LOOK_S))
        return min((at_s for at_s in due if at_s > now), default=float("inf"))

    def _slack_s(self, now: float) -> float:
        """GPU-seconds until every GPU that is promised must work on promises, with time to stop renders before."""
        return self._promises.slack_s(self._lines.promised_s, now) - self._policy.urgent_s * self._promises.gpus
