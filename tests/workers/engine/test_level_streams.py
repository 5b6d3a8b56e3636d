"""Streams with a memory for each noise level: against a plain loop, latent by latent, and over lost ranks."""

from dataclasses import replace

import pytest

from reelray.proto.chunking import Chunking
from reelray.proto.memory_rule import Commit, MemoryRule, Placement, PromptSwitch, Sink
from reelray.proto.recipe import Guidance, Recipe, Schedule, Solver
from reelray.proto.request import PromptChange
from reelray.workers.engine.rank import Rank
from reelray.workers.models.registry import open_checkpoint
from tests.support.interrupted import interrupted
from tests.support.joint_stream import AdaptiveMemory, stream_by_levels, wrapped
from tests.support.latent_pictures import LatentPictures
from tests.support.render_on import render_on
from tests.support.requests import make_request
from tests.support.stream_watched import stream_watched

TIMESTEPS = [700.0, 400.0, 200.0]
RULE = MemoryRule(local=2, sink=2, commit=Commit.EVERY_STEP, placement=Placement.WRAPPED, wrap=7)
PLAIN = {"levels": [0.7, 0.4, 0.2], "timesteps": TIMESTEPS}


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return LatentPictures(open_checkpoint(tiny_t2v, device="cpu"))


def request_of(scale, **changes):
    """Two latent frames, then one by one; the counter goes back to 3 in front of frames 7, 11 and 15."""
    recipe = Recipe(
        name="levels",
        schedule=Schedule(solver=Solver.X0_RENOISE, timesteps=tuple(TIMESTEPS), shift=1.0),
        guidance=Guidance(scale=scale),
        chunking=Chunking(latent_frames=1, first_latent_frames=2),
        memory=RULE,
    )
    size = {"width": 48, "height": 32, "prompt": "a red circle", "latent_frames": 17}
    return make_request(recipe=recipe, **(size | changes))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_levels_remember_for_themselves_as_in_a_plain_loop(model, scale):
    request = request_of(scale)
    found, forwards = stream_watched(model, request)
    wanted = stream_by_levels(model, request, **PLAIN, rule=wrapped(4, sink=2, wrap=7, first=2))
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert forwards == 16 * 3 * (1 if scale == 1 else 2)  # and not one to remember


@pytest.mark.parametrize("wrong", [{"wrap": 1000}, {"sink": 1}, {"frames": 5}])
def test_the_comparison_sees_mistakes(model, wrong):
    words = {"frames": 4, "sink": 2, "wrap": 7, "first": 2} | wrong
    found, _ = stream_watched(model, request_of(1.0))
    wanted = stream_by_levels(model, request_of(1.0), **PLAIN, rule=wrapped(words.pop("frames"), **words))
    assert (found - wanted).abs().max() > 1e-3


def test_one_memory_for_all_levels_is_another_video(model):
    request = request_of(1.0)
    found, _ = stream_watched(model, request)
    together = replace(request, recipe=replace(request.recipe, memory=replace(RULE, commit=Commit.LAST_STEP)))
    other, _ = stream_watched(model, together)
    gap = (found - other).abs().amax((0, 1, 3, 4))
    assert (gap[:2] == 0).all()  # the first chunk attends nothing
    assert gap[2] < 1e-5  # and leaves one memory to all levels
    assert (gap[4:] > 1e-3).all()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_levels_go_on_from_any_commit_bit_by_bit(model, scale):
    request = request_of(scale, latent_frames=9, changes=(PromptChange(latent_frame=5, prompt="the blue square"),))
    request = replace(
        request,
        recipe=replace(request.recipe, memory=replace(RULE, switch=PromptSwitch.FLUSH, switch_frames=1)),
    )
    whole = render_on(Rank(model), request)
    for steps in (2, 4, 5, 6, 9, 15, 17, 24):
        assert interrupted(model, request, after=steps) == whole, steps


def adaptive(request, least):
    memory = replace(request.recipe.memory, sink_kind=Sink.ADAPTIVE, sink_likeness=least)
    return replace(request, recipe=replace(request.recipe, memory=memory))


@pytest.mark.parametrize(("scale", "least"), [(1.0, 0.9), (3.0, 0.97)])
def test_an_adaptive_sink_takes_what_is_new_layer_by_layer(model, scale, least):
    request, made = adaptive(request_of(scale), least), []

    def kind(**words):
        made.append(AdaptiveMemory(sink=2, least=least, layers=2, **words))
        return made[-1]

    wanted = stream_by_levels(model, request, **PLAIN, rule=wrapped(4, sink=2, wrap=7, first=2), kind=kind)
    found, _ = stream_watched(model, request)
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert len({tuple(map(tuple, memory.stays)) for memory in made}) > 1  # levels choose for themselves
    assert any(memory.stays[0] != memory.stays[1] for memory in made)  # and layers
    still, _ = stream_watched(model, request_of(scale))
    assert (still - found).abs().max() > 1e-3


def test_an_adaptive_sink_goes_on_from_any_commit_bit_by_bit(model):
    request = adaptive(request_of(1.0, latent_frames=9), 0.9)
    whole = render_on(Rank(model), request)
    for steps in (6, 15, 17):
        assert interrupted(model, request, after=steps) == whole, steps
