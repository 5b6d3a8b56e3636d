"""Forms the next steps of one crew, or of two: who moves, who is decoded, who is written down."""

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from reelray.proto.layout import Layout
from reelray.proto.placement import Lending
from reelray.proto.step_plan import Crew, StepPlan, WindowStep
from reelray.scheduler.crew_line import CrewLine
from reelray.scheduler.lanes import Lanes
from reelray.scheduler.lending import pays_to_lend
from reelray.scheduler.marks import Marks
from reelray.scheduler.resting import note_plan
from reelray.scheduler.roster import Roster


class StepForming:
    """Forms plans for crews that have none in flight; see `reelray/scheduler/engine_core.py` for the rules.

    Args:
        roster: The requests.
        layouts: Between which the ranks may be regrouped, the one of their start first.
        decode_ranks: Ranks behind those of the layout that do nothing but decode.
        lending: When these help to denoise; None means never.
        generation: Of the gang.
        in_step: See `StepPlan`.
        marks: That streams leave, where there is one lane and one crew.
    """

    def __init__(
        self,
        roster: Roster,
        layouts: Sequence[Layout],
        *,
        decode_ranks: int,
        lending: Lending | None,
        generation: int,
        marks: Marks,
        in_step: bool = False,
    ) -> None:
        self._roster, self._layout, self._lending = roster, layouts[0], lending
        self._in_step = in_step
        self._lanes = Lanes(layouts)
        self.layouts = self._lanes.layouts
        self.generation, self.marks = generation, marks
        self.one_lane = len(layouts) == 1 and layouts[0].replica == 1
        self.formed: deque[StepPlan] = deque()
        self.lines = [CrewLine(None)]
        if decode_ranks:
            denoise = layouts[0].ranks
            crews = {Crew.DENOISE: range(denoise), Crew.DECODE: range(denoise, denoise + decode_ranks)}
            self.lines = [CrewLine(crew, ranks) for crew, ranks in crews.items()]

    def restart(self, generation: int) -> None:
        """Begin anew with ranks that know nothing."""
        self.generation, self._roster.plans = generation, 0
        self.formed.clear()
        for line in self.lines:
            line.restart()

    def form(self, now_s: float) -> None:
        """Form steps for the crews that have none in flight."""
        if self.lines[0].is_free:
            for rollout in self._roster.take_admits():
                for line in self.lines:
                    line.welcome(rollout)
        if len(self.lines) > 1:
            self._form_apart(self.lines[0], self.lines[1], now_s)
        elif self.lines[0].is_free:
            self._form_together(self.lines[0], now_s)

    def _form_together(self, line: CrewLine, now_s: float) -> None:
        at_work = self._roster.at_work()
        rests = self._roster.list_rests(frees=line.frees)
        has_work = any(rollout.has_work for rollout in at_work) or self._lanes.offers_room(at_work)
        if not (line.has_news or any(rests.values()) or has_work or self._roster.waits_for_late):
            return
        moves = self._lanes.arrange(at_work)
        rests = self._roster.list_rests({move.request_id for move in moves}, frees=line.frees)
        layout, places = self._lanes.named, self._lanes.places()
        windows, decodes = self._roster.pick_windows(places, now_s, decodes=True), self._roster.pick_decodes(places)
        issue = partial(self._issue, line, now_s=now_s, layout=layout, moves=moves)
        commits, snapshots = self._roster.list_commits(windows, now_s), self._roster.pick_put_downs()
        marks = self.marks.pick(self._roster.rollouts, windows) if self.one_lane else ()
        forks = (*self._roster.pick_forks(), *marks)
        issue(windows=windows, decodes=decodes, commits=commits, snapshots=snapshots, forks=forks, **rests)

    def _form_apart(self, denoise: CrewLine, decode: CrewLine, now_s: float) -> None:
        if self._lending is not None and self._waits_to_lend(self._lending, denoise, decode):
            return
        both, puts_down = denoise.is_free and decode.is_free, self._roster.has_put_downs
        if puts_down and not both:
            return  # a snapshot is what both write at once
        if denoise.is_free:
            self._lanes.arrange(self._roster.at_work())
        windows = self._roster.pick_windows(self._lanes.places(), now_s, decodes=False) if denoise.is_free else ()
        rests = self._roster.list_rests(frees=denoise.frees)
        if both and not puts_down and not any(rests.values()) and self._lend(denoise, decode, windows, now_s):
            return
        layout = None if self._lending is None else self._layout
        deliveries = self._roster.deliver() if both else ()
        snapshots, forks = (self._roster.pick_put_downs(), self._roster.pick_forks()) if both else ((), ())
        tell = partial(self._issue, now_s=now_s, layout=layout)
        copies = bool(snapshots or forks)
        issue = partial(tell, deliveries=deliveries, joint=bool(deliveries), snapshots=snapshots, forks=forks)
        if denoise.is_free and (denoise.has_news or deliveries or windows or copies or any(rests.values())):
            for window in windows:
                self._roster.rollouts[window.request_id].is_shared = False
            issue(denoise, windows=windows, commits=self._roster.list_commits(windows, now_s), **rests)
        decodes = self._roster.pick_delivered() if decode.is_free else ()
        if decode.is_free and (decode.has_news or deliveries or decodes or copies):
            commits = self._roster.list_decode_commits(decodes)
            issue(decode, decodes=decodes, commits=commits)

    def _waits_to_lend(self, lending: Lending, denoise: CrewLine, decode: CrewLine) -> bool:
        """Whether a crew does what both do together, or decode ranks that could be lent take in a request."""
        if any(line.issued is not None and line.issued.layout == lending.layout for line in (denoise, decode)):
            return True
        takes_in = decode.issued is not None and not decode.issued.decodes
        return takes_in and not self._roster.waits_for_decode

    def _lend(self, denoise: CrewLine, decode: CrewLine, windows: Sequence[WindowStep], now_s: float) -> bool:
        """Have all ranks move a window, if that pays and nothing is to be decoded; returns whether they do."""
        if self._lending is None or self._roster.waits_for_decode:
            return False
        for window in windows:
            rollout = self._roster.rollouts[window.request_id]
            joins = window.step > 0 and not rollout.is_shared
            steps_left = rollout.request.recipe.schedule.of_chunk(window.chunk).length - window.step
            if pays_to_lend(self._lending, rollout.request, steps_left=steps_left, joins=joins):
                rollout.is_shared = True
                issue = partial(self._issue, now_s=now_s, layout=self._lending.layout, joint=True, windows=windows)
                names = (window.request_id,) if joins else ()
                issue(denoise, joins=names, commits=self._roster.list_commits(windows, now_s))
                issue(decode, joins=names)
                return True
        return False

    def _issue(self, line: CrewLine, *, now_s: float, **parts: Any) -> None:
        plan = line.issue(self.generation, now_s, in_step=self._in_step, **parts)
        note_plan(self._roster.rollouts, plan)
        for window in plan.windows:
            rollout = self._roster.rollouts[window.request_id]
            rollout.chunks_begun = max(rollout.chunks_begun, *(slot.chunk + 1 for slot in window.chunks))
        self.formed.append(plan)
        self._roster.plans += 1
