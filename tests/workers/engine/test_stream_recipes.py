"""Shipped recipes of streams through a rank, whole as they are, beside the same in one plain loop."""

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import pytest
import torch

from reelray.proto.bank_rule import BankRule
from reelray.proto.memory_rule import FirstFrame, MemoryRule
from reelray.proto.request import PromptChange
from reelray.proto.step_plan import StepPlan
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.rank import Rank
from reelray.workers.memory.bank import Bank
from reelray.workers.memory.regions import Regions
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.models.wan.recoding import WanRecoder
from reelray.workers.recipes.presets import presets
from tests.support.bank_oracle import BankMemory
from tests.support.interrupted import interrupted
from tests.support.latent_pictures import LatentPictures
from tests.support.memory_oracle import latest, rollouts, there_and_back
from tests.support.plain_stream import Special, stream_plainly
from tests.support.render_on import render_on
from tests.support.requests import make_request
from tests.support.watched_model import Watched

LAYERS = 2
BANK = partial(BankMemory, size=3, every=3, chunk=3, layers=LAYERS)
KREA = {first: ((first - 3, first - 2, first - 1), 3) for first in range(3, 60, 3)}
KEPT = {first: ((0, first - 2, first - 1), 1) for first in range(3, 60, 3)}
KEEPS = {"local": 5, "sink": 1, "first_frame": FirstFrame.AS_IT_IS}
STAR = PromptChange(latent_frame=8, prompt="a blue star spins")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recipe and what becomes of it.

    Args:
        preset: Its name.
        latent_frames: Of the video.
        rule: What is attended, by the oracle.
        special: What else the recipe does.
        changes: Of the prompt.
        recached: See `stream_plainly`.
        memory: Other fields of its memory.
    """

    preset: str
    latent_frames: int
    rule: object
    special: Special = field(default_factory=Special)
    changes: tuple[PromptChange, ...] = ()
    recached: dict[int, tuple[int, int]] | None = None
    memory: dict[str, object] = field(default_factory=dict)


def memflow(**changes):
    values = {"preset": "memflow-1.3b", "latent_frames": 51, "rule": latest(9, sink=3, chunk=3)}
    return Case(**(values | {"special": Special(memory=BANK)} | changes))


def quirky(**quirks):
    rule = replace(presets()["memflow-1.3b"].memory.bank, **quirks)
    return {"memory": {"bank": rule}}


LATE = {
    "changes": (PromptChange(latent_frame=34, prompt="a blue star spins"),),
    "recached": {36: (27, 3)},
}
RELATIVE = latest(6, chunk=3, relative=True)
CASES = {
    "memflow": memflow(),
    "memflow, prompt changed": memflow(**LATE),
    "memflow as published": memflow(
        special=Special(memory=partial(BANK, repeats=True, ties=True)), **quirky(repeats=True, ties=True), **LATE
    ),
    "rolling sink": Case(preset="rolling-sink-1.3b", latent_frames=63, rule=there_and_back(21, early=18, chunk=3)),
    "krea": Case(preset="krea-realtime-14b", latent_frames=18, rule=RELATIVE, special=Special(anew=KREA, coded=True)),
    "krea, first frame kept, frame by frame": Case(
        preset="krea-realtime-14b",
        latent_frames=18,
        rule=latest(5, sink=1, chunk=3, relative=True),
        special=Special(anew=KEPT),
        memory={"causal_frames": 1, **KEEPS},
    ),
    "krea, prompt changed": Case(
        preset="krea-realtime-14b",
        latent_frames=27,
        rule=RELATIVE,
        special=Special(anew=KREA, coded=True, mixes={9: (0.75, 0.25), 12: (0.5, 0.5), 15: (0.25, 0.75)}),
        changes=(STAR,),
    ),
    "causvid": Case(
        preset="causvid-1.3b",
        latent_frames=45,
        rule=rollouts(21, overlap=3, chunk=3),
        special=Special(anew={21: ((18, 19, 20), 3), 39: ((36, 37, 38), 3)}, coded=True),
    ),
    "infinity rope, another scene": Case(
        preset="infinity-rope-1.3b",
        latent_frames=21,
        rule=latest(5, sink=1, chunk=3, relative=True, flushed=(9, 2)),
        special=Special(jumps={9: 45}),
        changes=(replace(STAR, cut=True),),
    ),
}


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return LatentPictures(open_checkpoint(tiny_t2v, device="cpu"))


def request_of(case, **changes):
    recipe = presets()[case.preset]
    recipe = replace(recipe, memory=replace(recipe.memory, **case.memory))
    size = {"width": 48, "height": 32, "prompt": "a red circle", "latent_frames": case.latent_frames}
    return make_request("a", recipe=recipe, changes=case.changes, **(size | changes))


@pytest.fixture(scope="module")
def wanted(model):
    """What the plain loop makes of a case; each is made once."""
    found = {}

    def find(name):
        if name not in found:
            case = CASES[name]
            request = request_of(case)
            found[name] = stream_plainly(model, request, case.rule, recached=case.recached, special=case.special)
        return found[name]

    return find


def gap_of(model, case, wanted):
    """Greatest difference to the plain loop, frame by frame."""
    watched, request = Watched(model), request_of(case)
    rank = Rank(watched)
    render_on(rank, request)
    rank.execute(StepPlan(sequence=rank._sequence, generation=0, releases=(request.request_id,)))
    for room in rank._rooms._rooms.values():
        assert room.pool.free == room.pool.unpromised == room.pool.pages
    return (torch.cat(watched.latents, 2) - wanted).abs().amax((0, 1, 3, 4))


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_is_what_the_plain_loop_makes_of_it(model, wanted, name):
    assert gap_of(model, CASES[name], wanted(name)).max() < 1e-5


SHORT = {
    "memflow": {"preset": "memflow-1.3b", "local": 3, "bank": BankRule(size=2, every=1), "switch_frames": 6},
    "memflow as published": {
        "preset": "memflow-1.3b",
        "local": 6,
        "bank": BankRule(size=2, every=2, repeats=True, ties=True),
        "switch_frames": 6,
    },
    "rolling sink": {"preset": "rolling-sink-1.3b", "local": 9, "sink": 6},
    "krea": {"preset": "krea-realtime-14b", "switch_chunks": 3},
    "krea, first frame kept": {"preset": "krea-realtime-14b", **KEEPS},
    "causvid": {"preset": "causvid-1.3b", "rollout": 9, "local": 9},
    "infinity rope": {"preset": "infinity-rope-1.3b"},
}


@pytest.mark.parametrize("name", SHORT)
def test_it_goes_on_from_any_commit_bit_by_bit(model, name):
    """The ranks that remembered are gone; what is left are the inputs of the forwards that were remembered."""
    memory = dict(SHORT[name])
    case = Case(preset=memory.pop("preset"), latent_frames=21, rule=None, memory=memory)
    change = replace(STAR, latent_frame=13, cut=name == "infinity rope")
    request = request_of(replace(case, changes=(change,)))
    schedule = replace(request.recipe.schedule, timesteps=(1000.0, 500.0))
    request = replace(request, recipe=replace(request.recipe, schedule=schedule))
    whole = render_on(Rank(model), request)
    for steps in (16, 23, 25, 28):
        assert interrupted(model, request, after=steps) == whole, steps


MISTAKES = {
    "rolling sink": (Regions, "_bounce", lambda right, regions: right(regions)[1:] + right(regions)[:1]),
    "memflow": (Bank, "shown", lambda right, bank, hides: right(bank, hides=not hides)),
    "memflow, prompt changed": (
        Bank,
        "take_in",
        lambda right, bank, scores: right(bank, [[0.0] * LAYERS] * len(scores)),
    ),
    "krea": (MemoryRule, "frames_anew", lambda right, rule, first, chunk: right(rule, first, chunk)[::-1]),
    "causvid": (MemoryRule, "begins_anew", lambda right, rule, first: right(rule, first + 3)),
    "krea, prompt changed": (WanRecoder, "encode", lambda right, recoder, frame: right(recoder, frame + 1)),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_seen(model, wanted, monkeypatch, name):
    """The comparison above would notice each of these."""
    whole = wanted(name)
    where, what, mistake = MISTAKES[name]
    right = getattr(where, what)
    monkeypatch.setattr(where, what, lambda *arguments, **options: mistake(right, *arguments, **options))
    assert gap_of(model, CASES[name], whole).max() > 1e-4


def test_layers_choose_for_themselves(model):
    """Else a bank of one choice would pass."""
    found = []
    case = CASES["memflow"]

    class Noted(BankMemory):
        def prepare(self, first, text, *, recaches=False):
            super().prepare(first, text, recaches=recaches)
            found.append(tuple(tuple(bank.frames) for bank in self.banks))

    special = Special(memory=partial(Noted, size=3, every=3, chunk=3, layers=LAYERS))
    stream_plainly(model, request_of(case), case.rule, special=special)
    assert any(len(set(choice)) > 1 for choice in found)
    assert any(late - early > 9 for choice in found for early, late in pairwise(choice[0]))


@pytest.mark.parametrize(("name", "latent_frames"), [("memflow", 39), ("krea, prompt changed", 18), ("causvid", 27)])
def test_both_branches_of_guidance_remember(model, name, latent_frames):
    """A bank chooses by its branch's text; what is made up anew is made up in each."""
    case = replace(CASES[name], latent_frames=latent_frames)
    request = request_of(case, negative_prompt="blurred")
    recipe = replace(request.recipe, guidance=replace(request.recipe.guidance, scale=2.0))
    request, watched = replace(request, recipe=recipe), Watched(model)
    render_on(Rank(watched), request)
    wanted = stream_plainly(model, request, case.rule, special=case.special)
    assert (torch.cat(watched.latents, 2) - wanted).abs().max() < 3e-5


def test_frames_leave_before_memory_begins_anew(model):
    core, rank, plans = EngineCore(EngineLimits()), Rank(model), []
    request = request_of(replace(CASES["krea"], latent_frames=6))
    core.submit(request, model.facts)
    while (plan := core.next_step(0.0)) is not None:
        report = rank.execute(plan)
        core.report(report)
        kinds = ["anew" if window.recaches else "step" for window in plan.windows]
        plans.append((*kinds, *("decode" for _ in plan.decodes)))
        for frames in report.frames:
            core.acknowledge(request.request_id, frames.count)
    begin = plans.index(("decode",))
    assert plans[begin - 1 : begin + 3] == [("step",), ("decode",), ("anew",), ("step",)]


def test_what_is_not_served_says_so():
    with pytest.raises(ValueError, match="first_frame is coded_anew; only a rebuild or a rollout"):
        replace(presets()["longlive-1.3b"].memory, first_frame=FirstFrame.CODED_ANEW)
    with pytest.raises(ValueError, match="with a sink the first frame of the video is among them"):
        replace(presets()["krea-realtime-14b"].memory, sink=1)
    with pytest.raises(ValueError, match=r"a scene is cut, and recipe memflow-1\.3b has no memory\.cut_position"):
        request_of(replace(CASES["memflow"], changes=(replace(STAR, cut=True),)))
