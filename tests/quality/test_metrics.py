import math

import numpy as np
import pytest
import torch
from torch import Tensor

from reelray.quality import metrics
from reelray.quality.metrics import compare

RMS = 10 ** (-30.46 / 20)


def moving_blob(frames: int = 24) -> Tensor:
    """A soft blob that drifts over a still gradient, well inside 0..1."""
    t = torch.arange(frames)[:, None, None] * 1.3
    y, x = torch.arange(48.0)[None, :, None], torch.arange(64.0)[None, None, :]
    blob = torch.exp(-((x - 12 - t) ** 2 + (y - 24) ** 2) / 60)
    return (0.3 + 0.2 * x / 64 + 0.3 * blob)[..., None].expand(-1, -1, -1, 3).contiguous()


def draw_noise(shape: tuple[int, ...] | torch.Size, rms: float = RMS) -> Tensor:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return noise * (rms / noise.square().mean().sqrt())


def test_equal_clips_are_perfect() -> None:
    report = compare(moving_blob(), moving_blob(), seams=[8, 16])
    assert report.to_dict() == {
        "psnr_db": math.inf,
        "worst_frame_psnr_db": math.inf,
        "ssim": pytest.approx(1.0, abs=1e-12),
        "delta_psnr_db": math.inf,
        "second_difference_ratio": 1.0,
        "static_flicker_levels": pytest.approx(0.0, abs=0.3),
        "high_frequency_ratio": 1.0,
        "motion_ratio": 1.0,
        "chunk_seam_excess": 0.0,
    }


def test_a_constant_offset_has_the_known_psnr_and_ssim() -> None:
    flat = torch.full((3, 16, 16, 3), 0.4)
    offset = flat + 0.1
    assert metrics.psnr(offset, flat) == pytest.approx(20.0, abs=1e-4)
    assert metrics.ssim(offset, flat) == pytest.approx((2 * 0.5 * 0.4 + 1e-4) / (0.5**2 + 0.4**2 + 1e-4), abs=1e-6)
    assert metrics.delta_psnr(offset, flat) > 100


def test_ssim_agrees_with_its_definition_on_one_window() -> None:
    generator = np.random.default_rng(0)
    y, x = generator.random((2, 1, 11, 11, 3))
    axis = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weight = np.outer(axis, axis)[..., None] / axis.sum() ** 2
    mean_y, mean_x = (weight * y[0]).sum((0, 1)), (weight * x[0]).sum((0, 1))
    var_y, var_x = (weight * (y[0] - mean_y) ** 2).sum((0, 1)), (weight * (x[0] - mean_x) ** 2).sum((0, 1))
    cov = (weight * (y[0] - mean_y) * (x[0] - mean_x)).sum((0, 1))
    by_channel = (
        (2 * mean_y * mean_x + 1e-4) * (2 * cov + 9e-4) / (mean_y**2 + mean_x**2 + 1e-4) / (var_y + var_x + 9e-4)
    )
    assert metrics.ssim(y, x) == pytest.approx(by_channel.mean(), abs=1e-6)


def test_psnr_is_of_the_whole_clip_and_the_worst_frame_is_told() -> None:
    x = torch.full((4, 12, 12, 3), 0.5)
    y = x.clone()
    y[2] += 0.1
    assert metrics.psnr(y, x) == pytest.approx(20 + 10 * math.log10(4), abs=1e-3)
    assert metrics.worst_frame_psnr(y, x) == pytest.approx(20.0, abs=1e-3)


def test_bytes_and_floats_and_arrays_and_tensors_agree() -> None:
    x = (moving_blob(4) * 255).round().to(torch.uint8)
    y = (x.int() + 3).clamp(max=255).to(torch.uint8)
    as_bytes, as_arrays = compare(y, x), compare(y.numpy(), x.numpy())
    as_floats = compare(y.double().numpy() / 255, x / 255)
    assert as_bytes == as_arrays
    assert as_bytes.psnr_db == pytest.approx(20 * math.log10(255 / 3), abs=1e-4)
    assert as_floats.psnr_db == pytest.approx(as_bytes.psnr_db, abs=1e-4)
    assert as_floats.ssim == pytest.approx(as_bytes.ssim, abs=1e-6)


def test_noise_pumping_and_a_fixed_pattern_differ_in_time_only() -> None:
    x = moving_blob()
    noise = compare(x + draw_noise(x.shape), x)
    pumping = compare(x + RMS * math.sqrt(2) * torch.sin(1.88 * torch.arange(24.0))[:, None, None, None], x)
    fixed = compare(x + draw_noise(x.shape[1:]), x)
    for report in (noise, pumping, fixed):
        assert report.psnr_db == pytest.approx(30.46, abs=0.15)
    assert noise.delta_psnr_db == pytest.approx(27.45, abs=0.1)
    assert noise.static_flicker_levels == pytest.approx(8.63, abs=0.15)
    assert noise.second_difference_ratio > 4
    assert pumping.delta_psnr_db == pytest.approx(26.3, abs=0.3)
    assert 9 < pumping.static_flicker_levels < 12.5
    assert pumping.second_difference_ratio > noise.second_difference_ratio
    assert fixed.delta_psnr_db > 100
    assert fixed.second_difference_ratio == pytest.approx(1.0, abs=1e-3)
    assert fixed.static_flicker_levels < 0.3
    assert noise.high_frequency_ratio > 10
    assert fixed.high_frequency_ratio == pytest.approx(1.0, abs=0.01)


def test_a_delay_by_one_frame_keeps_its_smoothness() -> None:
    x = moving_blob()
    report = compare(torch.cat([x[:1], x[:-1]]), x)
    assert report.delta_psnr_db > report.psnr_db + 5
    assert report.second_difference_ratio == pytest.approx(1.1, abs=0.1)


def test_a_frozen_clip_has_no_motion() -> None:
    x = moving_blob()
    report = compare(x[:1].expand_as(x), x)
    assert report.motion_ratio == 0.0
    assert report.second_difference_ratio == 0.0


def test_a_seam_is_a_larger_step_between_chunks() -> None:
    x = torch.linspace(0.2, 0.4, 9)[:, None, None, None].expand(9, 12, 12, 3)
    y = x.clone()
    y[6:] += 0.05
    assert metrics.chunk_seam_excess(y, x, [6]) == pytest.approx(0.05 / 0.025, abs=1e-3)
    assert metrics.chunk_seam_excess(y, x, [3]) < 0
    assert compare(y, x).chunk_seam_excess is None


def test_a_reference_without_motion() -> None:
    still = torch.full((4, 12, 12, 3), 0.5)
    assert metrics.motion_ratio(still, still) == 1.0
    assert metrics.motion_ratio(still + draw_noise(still.shape), still) == math.inf
    assert metrics.static_flicker(moving_blob(), torch.rand(24, 48, 64, 3).round()) is not None
    flashing = torch.tensor([0.0, 1.0, 0.0])[:, None, None, None].expand(3, 12, 12, 3)
    assert metrics.static_flicker(flashing, flashing) is None


def test_short_clips_have_no_temporal_metrics() -> None:
    report = compare(moving_blob(1), moving_blob(1))
    assert report.delta_psnr_db is None
    assert report.second_difference_ratio is None
    assert report.psnr_db == math.inf
    with pytest.raises(ValueError, match="at least 2"):
        metrics.delta_psnr(moving_blob(1), moving_blob(1))


@pytest.mark.parametrize(
    ("test", "reference", "complaint"),
    [
        (torch.zeros(2, 12, 12, 3), torch.zeros(3, 12, 12, 3), "one shape"),
        (torch.zeros(2, 3, 12, 12), torch.zeros(2, 3, 12, 12), r"\[T, H, W, 3\]"),
        (torch.zeros(2, 12, 12, 3) - 1, torch.zeros(2, 12, 12, 3), "0..1"),
        (torch.full((2, 12, 12, 3), math.nan), torch.zeros(2, 12, 12, 3), "0..1"),
        (torch.zeros(2, 12, 12, 3, dtype=torch.int32), torch.zeros(2, 12, 12, 3), "uint8 or floating"),
        (torch.zeros(2, 8, 8, 3), torch.zeros(2, 8, 8, 3), "at least 11"),
    ],
)
def test_what_is_no_clip_is_refused(test: Tensor, reference: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        compare(test, reference)


@pytest.mark.parametrize("seams", [[0], [24], [], list(range(1, 24))])
def test_impossible_seams_are_refused(seams: list[int]) -> None:
    with pytest.raises(ValueError, match="seams are"):
        metrics.chunk_seam_excess(moving_blob(), moving_blob(), seams)
