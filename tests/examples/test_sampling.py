"""A batch of requests against the engine's own way through the same checkpoint."""

from dataclasses import replace

import pytest
import torch

from examples.train_sprites.sampling import sample_requests
from reelray.proto.recipe import Guidance, Schedule, Solver
from reelray.proto.step_plan import WindowStep
from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.engine.memory_rooms import MemoryRooms
from reelray.workers.engine.station import Station
from reelray.workers.models.registry import open_checkpoint
from tests.support.requests import make_recipe, make_request

PROMPTS = ["a red circle", "the green square moves left on a blue background", "circle"]


def engine_latents(model, prompt, seed, recipe, latent_frames):
    request = make_request("a", prompt=prompt, negative_prompt="blue", recipe=recipe, latent_frames=latent_frames)
    held = HeldRequest(replace(request, seed=seed), model, Station(), MemoryRooms(model))
    steps = recipe.schedule.length
    for step in range(steps):
        held.move(
            WindowStep(
                request_id=request.request_id,
                chunk=0,
                step=step,
                first_latent_frame=0,
                latent_frames=latent_frames,
                last=step == steps - 1,
            )
        )
    return held.clean_1CTHW[0]


def test_batched_latents_equal_the_engines(tiny_t2v):
    model = open_checkpoint(tiny_t2v, device="cpu")
    recipe = make_recipe(steps=4, solver=Solver.UNIPC, guidance=4.0)
    shape = (16, 3, 2, 4)
    got = list(
        sample_requests(
            model, PROMPTS, recipe.schedule, recipe.guidance, shape, negative_prompt="blue", batch=2
        )
    )  # fmt: skip
    assert len(got) == len(PROMPTS)
    for seed, (prompt, latents) in enumerate(zip(PROMPTS, got, strict=True)):
        wanted = engine_latents(model, prompt, seed, recipe, 3)
        torch.testing.assert_close(latents, wanted, atol=1e-4, rtol=0)
    assert (got[0] - got[2]).abs().max() > 0.1


def test_a_solver_that_wants_noise_is_refused(tiny_t2v):
    model = open_checkpoint(tiny_t2v, device="cpu")
    schedule = Schedule(solver=Solver.X0_RENOISE, steps=2)
    with pytest.raises(ValueError, match="x0_renoise"):
        list(sample_requests(model, PROMPTS, schedule, Guidance(), (16, 1, 2, 4)))
