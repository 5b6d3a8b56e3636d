"""Noise: what it depends on, and what it does not."""

import pytest
import torch
from torch import Tensor

from reelray.workers.samplers.noise import INITIAL_STEP, derive_seed, draw_noise


def draw(*, seed: int = 1, chunk: int = 0, step: int = INITIAL_STEP, latent_frames: int = 3) -> Tensor:
    return draw_noise(seed=seed, chunk=chunk, step=step, channels=4, latent_frames=latent_frames, height=6, width=5)


def test_same_arguments_draw_the_same_noise_whatever_was_drawn_before() -> None:
    first = draw()
    torch.randn(100)
    draw(seed=2)
    assert torch.equal(draw(), first)
    assert first.shape == (1, 4, 3, 6, 5)
    assert first.dtype == torch.float32


def test_seed_chunk_and_step_each_change_the_noise() -> None:
    draws = [draw(), draw(seed=2), draw(chunk=1), draw(step=0), draw(step=1), draw(seed=2**62)]
    for i, a in enumerate(draws):
        assert all(not torch.equal(a, b) for b in draws[i + 1 :])


def test_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    draw()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_frame_does_not_depend_on_the_frames_after_it() -> None:
    assert torch.equal(draw(latent_frames=7)[:, :, :3], draw(latent_frames=3))


def test_noise_is_standard_normal() -> None:
    noise = draw(latent_frames=400)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_seeds_are_pinned() -> None:
    # A change here changes every video ever made.
    assert derive_seed(0, 0, -1) == 4677951519191696690
    assert derive_seed(42, 3, 7) == 5532226176797936433
    assert draw().flatten()[:3].tolist() == pytest.approx([0.8903, 0.6908, -0.312], abs=1e-4)
