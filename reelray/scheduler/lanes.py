"""Chooses how the ranks are grouped in the next step, and which lane each request has.

The rule is deterministic and looks at nothing but requests:

1. A request is *at work* from its admission until it has had nothing to do for `PATIENCE` steps, because its client
   does not take its frames. One that rests keeps its place and counts no more, until it has work again.
2. Wanted is the layout with the fewest lanes that still gives every request at work one of its own, or the one with
   the most lanes if they are more; then they take turns in a lane. A layout that splits the branches of guidance is
   taken only while every request at work is guided. Where a request at work once found no room to be remembered, and
   with more lanes than that, it would find none again: such layouts are not taken, if there are others, and that one
   itself not as long as there is any other. Among equals the first given is taken.
3. The gang is regrouped when another layout is wanted, but not while a request at work has `NEARLY_DONE` steps or fewer
   left: it would be moved for nothing, and soon the count changes anyway. Until then a newcomer shares a lane.
4. A request keeps its lane while the layout stays. One that needs a lane takes the one with the fewest requests, of
   these one whose ranks hold it already, of these the first. While a lane has two requests more than another, its
   youngest that is not nearly done goes there.

A step lasts as long as its slowest lane, so lanes of very different work leave ranks idle; the rule does not weigh it.
"""

from collections import Counter
from collections.abc import Sequence

from reelray.proto.layout import Layout, Place, check_regroup
from reelray.proto.step_plan import Move
from reelray.scheduler.rollout import Rollout

PATIENCE = 8
"""Steps without work after which a request counts no more."""
NEARLY_DONE = 2
"""Windows and pieces left for which nobody is moved."""


class Lanes:
    """The grouping of a gang's ranks, and who works where.

    Args:
        layouts: What the gang was started with; it begins in the first.

    Attributes:
        layouts: What the gang was started with.
        layout: The present one.

    Raises:
        InputError: The layouts do not fit one gang.
        UnsupportedError: A gang cannot be switched between them.
    """

    def __init__(self, layouts: Sequence[Layout] = (Layout(),)) -> None:
        check_regroup(layouts)
        self.layouts = tuple(layouts)
        self.layout = self.layouts[0]

    @property
    def named(self) -> Layout | None:
        """What plans say of the layout; None where there is nothing to choose and one lane."""
        return self.layout if len(self.layouts) > 1 or self.layout.replica > 1 else None

    def places(self) -> list[Place]:
        """The lanes of the present layout."""
        return [Place(layout=self.layout, lane=lane) for lane in range(self.layout.replica)]

    def arrange(self, at_work: Sequence[Rollout]) -> tuple[Move, ...]:
        """Choose the layout and give every request at work a place in it.

        Args:
            at_work: In order of arrival; those without a place are about to be admitted.

        Returns:
            What the ranks have to move.
        """
        before = {rollout: rollout.place for rollout in at_work}
        self.layout = self._choose(at_work)
        loads = Counter(r.place.lane for r in at_work if r.place is not None and r.place.layout == self.layout)
        for rollout in sorted(at_work, key=lambda r: r.place is None):
            if rollout.place is None or rollout.place.layout != self.layout:
                rollout.place = self._find_place(rollout.place, loads)
                loads[rollout.place.lane] += 1
        self._balance(at_work, loads)
        return tuple(
            Move(request_id=rollout.request.request_id, source=old, target=rollout.place)
            for rollout, old in before.items()
            if old is not None and rollout.place is not None and old != rollout.place
        )

    def offers_room(self, at_work: Sequence[Rollout]) -> bool:
        """Whether one who found no room in the present layout is to be moved to another one, though nobody has work."""
        return any(rollout.waits_for_room for rollout in at_work) and self._choose(at_work) != self.layout

    def _choose(self, at_work: Sequence[Rollout]) -> Layout:
        if not at_work or any(r.place is not None and not r.rests and r.steps_left <= NEARLY_DONE for r in at_work):
            return self.layout
        guided = all(rollout.request.recipe.guidance.needs_unconditional for rollout in at_work)
        fitting = [layout for layout in self.layouts if guided or layout.cfg == 1] or list(self.layouts)
        cramped = {layout for rollout in at_work for layout in rollout.cramped}
        least = min((layout.replica for layout in cramped), default=self.layout.ranks + 1)
        roomy = [layout for layout in fitting if layout.replica < least]
        fitting = roomy or [layout for layout in fitting if layout not in cramped] or fitting
        lanes = min(len(at_work), max(layout.replica for layout in fitting))
        return min((layout for layout in fitting if layout.replica >= lanes), key=lambda layout: layout.replica)

    def _find_place(self, old: Place | None, loads: Counter[int]) -> Place:
        ranks = set() if old is None else set(old.ranks)
        return min(self.places(), key=lambda place: (loads[place.lane], ranks.isdisjoint(place.ranks), place.lane))

    def _balance(self, at_work: Sequence[Rollout], loads: Counter[int]) -> None:
        while True:
            fullest, emptiest = (pick(self.places(), key=lambda p: loads[p.lane]) for pick in (max, min))
            able = [r for r in at_work if r.place == fullest and r.steps_left > NEARLY_DONE]
            if loads[fullest.lane] - loads[emptiest.lane] < 2 or not able:
                return
            able[-1].place = emptiest
            loads[fullest.lane] -= 1
            loads[emptiest.lane] += 1
