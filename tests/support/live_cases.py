"""Streams of a tiny model that are changed while they run, driven without a leader."""

from dataclasses import replace

from reelray.proto.bank_rule import BankRule
from reelray.proto.chunking import Chunking
from reelray.proto.memory_rule import Commit, FirstFrame, MemoryRule, Placement, PromptSwitch, Sink
from reelray.proto.recipe import Guidance, Recipe, Schedule, Solver
from reelray.proto.request import PromptChange
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.rank import Rank
from tests.support.requests import make_request

FEW = Schedule(solver=Solver.X0_RENOISE, timesteps=(1000.0, 500.0), shift=5.0)
RULES = {
    "recache": MemoryRule(local=4, sink=2, switch=PromptSwitch.RECACHE, switch_frames=6),
    "recache, last step": MemoryRule(
        local=4, sink=2, commit=Commit.LAST_STEP, switch=PromptSwitch.RECACHE, switch_frames=6
    ),
    "flush": MemoryRule(local=6, sink=1, placement=Placement.RELATIVE, switch=PromptSwitch.FLUSH, switch_frames=1),
    "keep": MemoryRule(local=4, sink=1),
    "moving": MemoryRule(local=4, sink=2, sink_kind=Sink.MOVING, sink_kept=0.6, placement=Placement.RELATIVE),
    "bank": MemoryRule(local=4, sink=1, bank=BankRule(size=1), switch=PromptSwitch.RECACHE, switch_frames=4),
    "bouncing": MemoryRule(local=6, sink=4, sink_kind=Sink.BOUNCING, placement=Placement.RELATIVE),
    "rebuild": MemoryRule(
        local=4,
        sink=1,
        placement=Placement.RELATIVE,
        commit=Commit.REBUILD,
        switch=PromptSwitch.LERP,
        switch_chunks=2,
    ),
    "rollout": MemoryRule(
        local=6, placement=Placement.RELATIVE, rollout=6, overlap=2, first_frame=FirstFrame.CODED_ANEW
    ),
}


def live_request(rule, name="a", *, latent_frames=12, guidance=1.0, **changes):
    recipe = Recipe(
        name="stream",
        schedule=FEW,
        guidance=Guidance(scale=guidance),
        chunking=Chunking(latent_frames=2),
        memory=RULES[rule],
    )
    wish = {"width": 48, "height": 32, "prompt": "a red circle", "live": True}
    return make_request(name, recipe=recipe, latent_frames=latent_frames, **(wish | changes))


def rolling_request(name="a", *, latent_frames=12):
    """Three chunks in flight, each a denoise step ahead of the next."""
    request = live_request("keep", name, latent_frames=latent_frames)
    memory = MemoryRule(local=8, sink=2, placement=Placement.ANCHORED)
    schedule = replace(request.recipe.schedule, timesteps=(1000.0, 600.0, 300.0))
    chunking = Chunking(latent_frames=2, stagger=1)
    return replace(request, recipe=replace(request.recipe, memory=memory, schedule=schedule, chunking=chunking))


def said(request, *changes):
    """The request as if the prompts had been known, each with the first latent frame of its chunk."""
    return replace(request, changes=tuple(PromptChange(latent_frame=first, prompt=text) for first, text in changes))


class Drive:
    """A core and its only rank.

    Args:
        model: The loaded checkpoint.
        limits: Of the core.
    """

    def __init__(self, model, limits=None, generation=0):
        self.core = EngineCore(limits or EngineLimits(commit_s=0.5), generation=generation)
        self.rank = Rank(model, generation=generation)
        self.model, self.generation = model, generation
        self.videos, self.failures, self.windows, self.plans = {}, {}, [], 0
        self.finished, self.snapshots, self.forks = [], [], []

    def submit(self, request, **more):
        self.core.submit(request, self.model.facts, **more)
        self.videos[request.request_id] = b""

    def step(self, meanwhile=lambda: None):
        """Carry out one plan, `meanwhile` being called while it is in flight; returns it, or None."""
        plan = self.core.next_step(float(self.plans))
        if plan is None:
            return None
        meanwhile()
        report = self.rank.execute(plan)
        self.failures |= {failure.request_id: failure.error for failure in report.failures}
        outcome = self.core.report(report)
        self.finished += outcome.finished
        self.snapshots += outcome.snapshots
        self.forks += outcome.forks
        self.videos |= {forked.request.request_id: b"" for forked in outcome.forks if forked.error is None}
        self.windows += plan.windows
        self.plans += 1
        for frames in report.frames:
            if frames.request_id in self.videos:
                self.videos[frames.request_id] += frames.data
                self.core.acknowledge(frames.request_id, frames.count)
        return plan

    def lose(self):
        """Go on with a rank that knows nothing."""
        self.generation += 1
        self.core.rewind(self.generation, [0])
        self.rank = Rank(self.model, generation=self.generation)

    def run(self, until=lambda _plan: False):
        while (plan := self.step()) is not None:
            if until(plan):
                return


def run_whole(model, request):
    drive = Drive(model, EngineLimits())
    drive.submit(request)
    drive.run()
    assert not drive.failures
    return drive.videos[request.request_id]


def begins(chunk):
    """Whether a plan begins a chunk."""

    def check(plan):
        return any(window.chunk == chunk and window.step == 0 for window in plan.windows)

    return check
