"""Options become requests; defaults come from the model."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from reelray.cluster.first_frame import fit_picture, load_picture, size_for_picture
from reelray.cluster.memory_check import check_memory, estimate_bytes
from reelray.cluster.render import RenderOptions, plan_job
from reelray.proto.chunking import Chunking
from reelray.proto.errors import InputError, ResourceError, SizeError, UnsupportedError
from reelray.proto.memory_rule import MemoryRule, Placement
from reelray.proto.recipe import Guidance, Schedule
from tests.support.fake_engine import FACTS, RECIPE, fake_entry


def plan(*, recipe=RECIPE, facts=FACTS, **options):
    entry = fake_entry(recipe=recipe, facts=facts)
    return plan_job(RenderOptions(prompt=options.pop("prompt", "p"), **options), entry)


def test_defaults_come_from_the_recipe():
    recipe = replace(RECIPE, defaults=replace(RECIPE.defaults, negative_prompt="blurry"))
    job = plan(prompt="  a cat \n", recipe=recipe)
    request = job.request
    assert (request.prompt, request.negative_prompt) == ("a cat", "blurry")
    assert (request.width, request.height, request.frames, job.fps) == (96, 64, 17, Fraction(16))
    assert request.recipe == recipe
    assert request.image is None
    assert plan(negative="", recipe=recipe).request.negative_prompt == ""


@pytest.mark.parametrize(
    ("seconds", "fps", "frames"),
    [(1, None, 17), (5, None, 81), (0.01, None, 1), (17 / 16, None, 17), (1.1, None, 21), (0.1, 10, 1), (0.3, 10, 5)],
)
def test_seconds_round_up_to_latent_frames(seconds, fps, frames):
    assert plan(seconds=seconds, fps=fps).request.frames == frames


def test_fps_may_be_a_broadcast_rate():
    assert plan(fps=23.976).fps == Fraction(2997, 125)
    assert plan(fps=24000 / 1001).fps == Fraction(24000, 1001)


def test_size_may_be_text_or_numbers():
    for size in ("128x32", "128X32", (128, 32)):
        request = plan(size=size).request
        assert (request.width, request.height) == (128, 32)


@pytest.mark.parametrize("size", ["128", "128x", "x32", "128x32x1", "-16x16", "1.5x16", "", "128:32"])
def test_size_must_be_two_numbers(size):
    with pytest.raises(SizeError, match="WIDTHxHEIGHT"):
        plan(size=size)


def test_size_error_names_a_size_that_works():
    with pytest.raises(SizeError, match=r"width 100 is not a multiple of 16.*nearest size: 96x48"):
        plan(size="100x50")
    plan(size="96x48")


def test_more_than_the_model_can_place_is_refused():
    facts = replace(FACTS, positions=20)
    assert plan(size="320x16", frames=77, facts=facts).request.frames == 77
    with pytest.raises(SizeError, match="81 frames are too many for this model; it makes at most 77"):
        plan(frames=81, facts=facts)
    told = r"seconds is 1:30, and model 'fake' can make at most 77 frames: 4\.8125 s at 16 frames per second"
    with pytest.raises(SizeError, match=told):
        plan(seconds="1:30", facts=facts)
    endless = replace(
        RECIPE, chunking=Chunking(latent_frames=3), memory=MemoryRule(local=9, placement=Placement.RELATIVE)
    )
    with pytest.raises(SizeError, match=r"can make at most 1048573 frames: 65536 s at 16 frames per second"):
        plan(seconds=1e7, facts=facts, recipe=endless)
    with pytest.raises(SizeError, match=r"height 336 is too large.*at most 320; nearest size: 32x320"):
        plan(size="32x336", facts=facts)


def test_steps_and_guidance_are_merged_into_the_recipe():
    recipe = plan(steps=9, guidance=1.5).request.recipe
    assert (recipe.schedule.steps, recipe.guidance.scale) == (9, 1.5)
    assert replace(recipe, schedule=RECIPE.schedule, guidance=RECIPE.guidance) == RECIPE


def test_distilled_models_keep_their_steps():
    recipe = replace(RECIPE, schedule=Schedule(timesteps=(1000.0, 750.0, 500.0, 250.0)))
    with pytest.raises(UnsupportedError, match="steps is 5, but model 'fake' is made for exactly 4 steps"):
        plan(steps=5, recipe=recipe)
    assert plan(steps=4, recipe=recipe).request.recipe.schedule.timesteps == recipe.schedule.timesteps


def test_a_pace_goes_with_the_request():
    assert plan().request.pace_fps is None
    assert plan(pace=12).request.pace_fps == 12.0
    with pytest.raises(InputError, match="pace is 0; it must be greater than 0 and at most 240 frames per second"):
        plan(pace=0)


def test_chunks_in_flight_take_no_fewer_steps_than_they_are_apart():
    chunking = Chunking(latent_frames=1, stagger=3, round_latent_frames=3)
    recipe = replace(RECIPE, chunking=chunking, schedule=replace(RECIPE.schedule, steps=9))
    with pytest.raises(InputError, match="steps is 2; chunks of model 'fake' are 3 steps apart"):
        plan(steps=2, recipe=recipe)
    assert plan(steps=3, recipe=recipe).request.recipe.schedule.steps == 3


def test_guidance_per_step_gives_way_to_one_weight():
    recipe = replace(RECIPE, guidance=Guidance(per_step=(5.0, 3.0, 1.0, 1.0)))
    with pytest.raises(UnsupportedError, match="exactly 4 steps"):
        plan(steps=5, recipe=recipe)
    assert plan(steps=5, guidance=2.0, recipe=recipe).request.recipe.guidance == Guidance(scale=2.0)


def test_seeds():
    assert plan(seed=0).request.seed == 0
    assert plan(seed=2**63 - 1).request.seed == 2**63 - 1
    drawn = {plan().request.seed for _ in range(20)}
    assert len(drawn) == 20
    assert max(drawn) < 2**32


def test_requests_have_ids_of_their_own():
    assert plan().request.request_id != plan().request.request_id


I2V = replace(RECIPE, task="i2v")


def test_picture_is_scaled_to_cover_and_cut_in_the_middle():
    wide = np.zeros((10, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    data = plan(image=wide, size="32x32", recipe=I2V).request.image
    assert np.frombuffer(data, np.uint8).reshape(32, 32, 3)[:, 4:28].min() > 250


def test_picture_sets_the_shape_unless_a_size_is_given():
    request = plan(image=np.zeros((100, 100, 3), np.uint8), recipe=I2V).request
    assert (request.width, request.height) == (80, 80)
    assert size_for_picture((1, 1000), 96 * 64, FACTS)[0] == 16


def test_picture_is_turned_upright_and_loses_transparency(tmp_path):
    image = Image.new("RGB", (20, 10), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert load_picture(tmp_path / "turned.jpg").size == (10, 20)
    clear = Image.new("RGBA", (4, 4), (255, 255, 255, 0))
    assert fit_picture(load_picture(clear), 4, 4) == bytes(48)


def test_picture_as_array_must_be_rgb_bytes():
    with pytest.raises(InputError, match=r"float64 of shape \(4, 4\); give uint8 RGB"):
        load_picture(np.zeros((4, 4)))


def test_memory_estimate_counts_one_chunk():
    whole = plan(frames=401).request
    chunked = plan(frames=401, recipe=replace(RECIPE, chunking=Chunking(latent_frames=3))).request
    weights = FACTS.parameters * 2
    assert estimate_bytes(whole, fake_entry()) - weights == 101 * 24 * 256 * 12
    assert estimate_bytes(chunked, fake_entry()) - weights == 3 * 24 * 256 * 12


def test_memory_check_names_need_and_supply(monkeypatch):
    from reelray.cluster import memory_check

    request = plan(frames=400_001).request
    monkeypatch.setattr(memory_check, "memory_bytes", lambda: 1_000_000_000)
    monkeypatch.setattr(memory_check, "list_gpus", list)
    with pytest.raises(ResourceError, match=r"at least 7\.4 GB of memory and there are 1\.0 GB"):
        check_memory(request, fake_entry(), device="auto")
    monkeypatch.setattr(memory_check, "memory_bytes", lambda: 10_000_000_000)
    check_memory(request, fake_entry(), device="auto")


def test_memory_check_asks_the_gpu_unless_told_cpu(monkeypatch):
    from reelray.cluster import memory_check
    from reelray.cluster.machine import Gpu

    request = plan(frames=400_001).request
    gpu = Gpu(name="big", memory_bytes=10**12, capability="9.0", driver="1")
    monkeypatch.setattr(memory_check, "memory_bytes", lambda: 1_000_000_000)
    monkeypatch.setattr(memory_check, "list_gpus", lambda: [gpu])
    check_memory(request, fake_entry(), device="auto")
    with pytest.raises(ResourceError):
        check_memory(request, fake_entry(), device="cpu")
