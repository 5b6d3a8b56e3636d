"""A real, tiny Wan checkpoint through the whole engine, against the plain loop on the same weights."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from reelray.cluster.local_engine import LocalEngine
from reelray.proto.events import Frames
from reelray.proto.recipe import Solver
from reelray.scheduler.limits import EngineLimits
from reelray.workers.models.registry import open_checkpoint
from tests.support.plain_loop import render_plainly
from tests.support.requests import make_recipe, make_request


def video(events):
    return b"".join(event.data for event in events if isinstance(event, Frames))


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


@pytest.mark.parametrize(("solver", "chunk"), [(Solver.UNIPC, None), (Solver.X0_RENOISE, 2)])
def test_interleaved_renders_equal_the_plain_loop(model, solver, chunk):
    recipe = make_recipe(steps=3, solver=solver, chunk=chunk)
    first = make_request("a", prompt="a red circle", negative_prompt="blue", recipe=recipe, latent_frames=4)
    second = replace(first, request_id="b", prompt="the green square", seed=3)
    limits = EngineLimits(decode_latent_frames=1, frame_credit=999)
    with LocalEngine.of_model(model, limits=limits) as engine:
        streams = [engine.render(request) for request in (first, second)]
        videos = [video(stream) for stream in streams]
    assert videos[0] == render_plainly(model, first)
    assert videos[1] == render_plainly(model, second)
    assert videos[0] != videos[1]


def test_longer_decode_pieces_change_no_more_than_rounding(model):
    request = make_request("a", prompt="a red circle", recipe=make_recipe(steps=2), latent_frames=5)
    pictures = []
    for piece in (1, 4):
        with LocalEngine.of_model(model, limits=EngineLimits(decode_latent_frames=piece)) as engine:
            data = video(engine.render(request))
            pictures.append(torch.frombuffer(bytearray(data), dtype=torch.uint8).int())
    difference = (pictures[0] - pictures[1]).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() <= 0.001


def test_an_i2v_checkpoint_takes_its_first_frame(tiny_i2v):
    request = make_request("a", prompt="a red circle", recipe=make_recipe(steps=1), latent_frames=2)
    image = bytes(range(256)) * (request.width * request.height * 3 // 256)
    with LocalEngine.open(partial(open_checkpoint, tiny_i2v, device="cpu")) as engine:
        assert len(video(engine.render(replace(request, image=image)))) == 5 * len(image)
