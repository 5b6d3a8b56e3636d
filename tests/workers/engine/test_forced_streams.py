"""Rounds of chunks that share every forward, against diffusers' steps and solvers, latent by latent."""

from dataclasses import replace

import pytest
import torch

from reelray.proto.chunking import Chunking
from reelray.proto.recipe import Guidance, Recipe, Schedule, Solver
from reelray.proto.request import PromptChange
from reelray.workers.engine.rank import Rank
from reelray.workers.models.registry import open_checkpoint
from tests.support.forced_stream import force_plainly
from tests.support.interrupted import interrupted
from tests.support.latent_pictures import LatentPictures
from tests.support.render_on import render_on
from tests.support.requests import make_request
from tests.support.watched_model import Watched

CASES = {  # chunking of the recipe; the same in words of the published code; latent frames
    "together": (
        Chunking(latent_frames=2, stagger=0, round_latent_frames=6, overlap=2, overlap_timestep=20.0),
        {"base": 6, "overlap": 2, "ar_step": 0, "block": 1, "addnoise": 20.0},
        13,
    ),
    "staggered": (
        Chunking(latent_frames=2, stagger=2, round_latent_frames=6, overlap=2, overlap_timestep=20.0),
        {"base": 6, "overlap": 2, "ar_step": 2, "block": 2, "addnoise": 20.0},
        14,
    ),
    "no overlap": (
        Chunking(latent_frames=3, stagger=0, round_latent_frames=6),
        {"base": 6, "overlap": 0, "ar_step": 0, "block": 1, "addnoise": 0.0},
        9,
    ),
}


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return LatentPictures(open_checkpoint(tiny_t2v, device="cpu"))


def request_of(case):
    chunking, _, latent_frames = CASES[case]
    recipe = Recipe(
        name="forced",
        schedule=Schedule(solver=Solver.UNIPC, steps=5, shift=8.0),
        guidance=Guidance(scale=3.0),
        chunking=chunking,
    )
    return make_request(recipe=recipe, width=48, height=32, prompt="a red circle", latent_frames=latent_frames)


@pytest.mark.parametrize("case", CASES)
def test_rounds_are_what_a_plain_loop_makes(model, case):
    watched, request = Watched(model), request_of(case)
    render_on(Rank(watched), request)
    found = torch.cat(watched.latents, 2)
    wanted = force_plainly(model, request, **CASES[case][1])
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("case", CASES)
def test_rounds_go_on_from_any_commit_bit_by_bit(model, case):
    """In a round, between two, and with chunks that are clean and still shown."""
    request = request_of(case)
    whole = render_on(Rank(model), request)
    for steps in (2, 4, 6, 8, 10, 12):
        assert interrupted(model, request, after=steps) == whole, steps


@pytest.mark.parametrize("case", ["together", "staggered"])
def test_a_new_prompt_holds_from_the_next_round(model, case):
    """Said in the first frames of the second round, which goes by the prompt of its beginning."""
    watched = Watched(model)
    request = replace(request_of(case), changes=(PromptChange(latent_frame=7, prompt="the blue square moves right"),))
    render_on(Rank(watched), request)
    found = torch.cat(watched.latents, 2)
    wanted = force_plainly(model, request, **CASES[case][1])
    unchanged = force_plainly(model, request_of(case), **CASES[case][1])
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    gap = (found - unchanged).abs().amax((0, 1, 3, 4))
    assert (gap[:10] < 1e-4).all()
    assert (gap[10:] > 1e-3).all()


def test_the_published_fault_of_the_solver_can_be_had(model):
    watched, request = Watched(model), request_of("staggered")
    schedule = replace(request.recipe.schedule, loses_start=True)
    faulty = replace(request, recipe=replace(request.recipe, schedule=schedule))
    render_on(Rank(watched), faulty)
    found = torch.cat(watched.latents, 2)
    wanted = force_plainly(model, request, **CASES["staggered"][1], overwrites=True)
    right = force_plainly(model, request, **CASES["staggered"][1])
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (found - right).abs().max() > 1e-2


def test_the_past_of_a_round_matters(model):
    request, (_, words, _) = request_of("together"), CASES["together"]
    right = force_plainly(model, request, **words)
    for wrong in ({"addnoise": 40.0}, {"ar_step": 1}, {"overlap": 1}):
        other = force_plainly(model, request, **(words | wrong))
        assert (other - right)[:, :, 6:].abs().max() > 1e-2
