"""How near a clip is to its reference, in single frames and in time, without any foreign weights.

Clips are [T, H, W, 3]: uint8 in 0..255 or floating point in 0..1, as numpy arrays or torch tensors on any device. The
temporal metrics see what PSNR cannot: flicker, pumping brightness, seams between chunks, motion that stops.

T frames, H/W pixels, C = 3 colour channels; y is the tested clip, x the reference.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Clip = Tensor | NDArray[Any]

WINDOW, WINDOW_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
STATIC_CHANGE = 1 / 255
RANGE_SLACK = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class FidelityReport:
    """All metrics of one clip; None where the clip is too short or nothing can be measured.

    Args:
        psnr_db: Of the mean squared error over the whole clip; infinite for equal clips.
        worst_frame_psnr_db: Of the worst frame.
        ssim: Mean over the frames, 1 for equal clips.
        delta_psnr_db: PSNR between the changes from frame to frame.
        second_difference_ratio: E2, mean second difference in time over that of the reference; 1 is perfect.
        static_flicker_levels: Mean change, 0-255, where the reference stands still.
        high_frequency_ratio: Temporal energy above half the Nyquist frequency over that of the reference.
        motion_ratio: Mean change from frame to frame over that of the reference; below 1 where motion is lost.
        chunk_seam_excess: Change at chunk borders over that elsewhere, less the reference's own ratio; 0 is perfect.
    """

    psnr_db: float
    worst_frame_psnr_db: float
    ssim: float
    delta_psnr_db: float | None
    second_difference_ratio: float | None
    static_flicker_levels: float | None
    high_frequency_ratio: float | None
    motion_ratio: float | None
    chunk_seam_excess: float | None

    def to_dict(self) -> dict[str, float | None]:
        """The metrics by name; infinite values stay infinite."""
        return asdict(self)


def compare(test: Clip, reference: Clip, *, seams: Sequence[int] | None = None) -> FidelityReport:
    """Measure a clip against its reference with every metric.

    Args:
        test: The tested clip.
        reference: Of the same shape.
        seams: First frames of the chunks after the first, for the seam metric.

    Returns:
        The metrics.

    Raises:
        ValueError: The clips are no clips, differ in shape, or a seam lies outside.
    """
    y, x = _load_pair(test, reference)
    frames = len(y)
    return FidelityReport(
        psnr_db=psnr(y, x),
        worst_frame_psnr_db=worst_frame_psnr(y, x),
        ssim=ssim(y, x),
        delta_psnr_db=delta_psnr(y, x) if frames > 1 else None,
        second_difference_ratio=second_difference_ratio(y, x) if frames > 2 else None,
        static_flicker_levels=static_flicker(y, x) if frames > 1 else None,
        high_frequency_ratio=high_frequency_ratio(y, x) if frames > 3 else None,
        motion_ratio=motion_ratio(y, x) if frames > 1 else None,
        chunk_seam_excess=chunk_seam_excess(y, x, seams) if seams else None,
    )


def psnr(test: Clip, reference: Clip) -> float:
    """Peak signal-to-noise ratio in dB from the mean squared error over the whole clip; infinite for equal clips."""
    y, x = _load_pair(test, reference)
    return _to_decibels(_mean((y - x).square()))


def worst_frame_psnr(test: Clip, reference: Clip) -> float:
    """PSNR in dB of the frame with the largest mean squared error."""
    y, x = _load_pair(test, reference)
    return _to_decibels(float((y - x).square().mean(dim=(1, 2, 3), dtype=torch.float64).max()))


def ssim(test: Clip, reference: Clip) -> float:
    """Structural similarity: Gaussian 11 x 11 window of deviation 1.5 inside the frame, data range 1.

    Taken per frame and channel, then averaged over all.

    Raises:
        ValueError: The frames are smaller than the window.
    """
    y, x = _load_pair(test, reference)
    if min(y.shape[1:3]) < WINDOW:
        raise ValueError(f"frames are {y.shape[1]} x {y.shape[2]}; both sides must be at least {WINDOW}")
    means = [_frame_ssim(a, b) for a, b in zip(y, x, strict=True)]
    return sum(means) / len(means)


def delta_psnr(test: Clip, reference: Clip) -> float:
    """PSNR in dB between the changes from frame to frame of both clips."""
    y, x = _load_pair(test, reference, frames=2)
    return _to_decibels(_mean((y.diff(dim=0) - x.diff(dim=0)).square()))


def second_difference_ratio(test: Clip, reference: Clip) -> float:
    """E2: mean absolute second difference in time, over that of the reference. 1 is perfect, more is flicker."""
    y, x = _load_pair(test, reference, frames=3)
    return _ratio(_mean(y.diff(n=2, dim=0).abs()), _mean(x.diff(n=2, dim=0).abs()))


def static_flicker(test: Clip, reference: Clip) -> float | None:
    """Mean absolute change, in levels of 255, of values that change by less than one level in the reference.

    Returns:
        The flicker; None if nothing in the reference stands still.
    """
    y, x = _load_pair(test, reference, frames=2)
    still = x.diff(dim=0).abs() < STATIC_CHANGE
    return _mean(y.diff(dim=0).abs()[still]) * 255 if bool(still.any()) else None


def high_frequency_ratio(test: Clip, reference: Clip) -> float:
    """Energy above half the Nyquist frequency in time, over that of the reference."""
    y, x = _load_pair(test, reference, frames=4)
    return _ratio(_high_energy(y), _high_energy(x))


def motion_ratio(test: Clip, reference: Clip) -> float:
    """Mean absolute change from frame to frame, over that of the reference: what a frozen clip cannot hide."""
    y, x = _load_pair(test, reference, frames=2)
    return _ratio(_mean(y.diff(dim=0).abs()), _mean(x.diff(dim=0).abs()))


def chunk_seam_excess(test: Clip, reference: Clip, seams: Sequence[int]) -> float:
    """Mean change at the borders of chunks over that elsewhere, less the same of the reference; 0 is perfect.

    Args:
        test: The tested clip.
        reference: The clip to compare with.
        seams: First frames of the chunks after the first.

    Raises:
        ValueError: A seam is no frame after the first, or no other frame is left.
    """
    y, x = _load_pair(test, reference, frames=3)
    wrong = [seam for seam in seams if not 0 < seam < len(y)]
    if wrong or not seams or len(set(seams)) > len(y) - 2:
        raise ValueError(f"seams are {list(seams)}; they must be some, not all, of the frames 1..{len(y) - 1}")
    at_seam = torch.zeros(len(y) - 1, dtype=torch.bool)
    at_seam[[seam - 1 for seam in seams]] = True
    return _seam_ratio(y, at_seam) - _seam_ratio(x, at_seam)


def _load_pair(test: Clip, reference: Clip, *, frames: int = 1) -> tuple[Tensor, Tensor]:
    """Both clips as float32 in 0..1 on one device."""
    y, x = _load(test), _load(reference)
    if y.shape != x.shape:
        raise ValueError(f"the clips are {tuple(y.shape)} and {tuple(x.shape)}; they must have one shape")
    if len(y) < frames:
        raise ValueError(f"the clips have {len(y)} frames; this metric needs at least {frames}")
    return y, x.to(y.device)


def _load(clip: Clip) -> Tensor:
    values = torch.as_tensor(clip)
    if values.dim() != 4 or values.shape[-1] != 3 or not values.numel():
        raise ValueError(f"the clip is {tuple(values.shape)}; it must be [T, H, W, 3] and not empty")
    if values.dtype == torch.uint8:
        return values.float() / 255
    if not values.dtype.is_floating_point:
        raise ValueError(f"the clip is {values.dtype}; it must be uint8 or floating point")
    low, high = values.aminmax()
    if not (float(low) >= -RANGE_SLACK and float(high) <= 1 + RANGE_SLACK):
        raise ValueError(f"the clip's values run from {float(low):g} to {float(high):g}; they must lie in 0..1")
    return values.float()


def _mean(values: Tensor) -> float:
    return float(values.mean(dtype=torch.float64))


def _to_decibels(squared_error: float) -> float:
    return -10 * math.log10(squared_error) if squared_error > 0 else math.inf


def _ratio(of_test: float, of_reference: float) -> float:
    """Their ratio; where the reference has none, 1 if the test has none either, else infinite."""
    if of_reference > 0:
        return of_test / of_reference
    return 1.0 if of_test == 0 else math.inf


def _frame_ssim(y_HWC: Tensor, x_HWC: Tensor) -> float:
    """Mean of the SSIM map of one frame. Wang et al., "Image quality assessment", IEEE TIP 13(4), 2004."""
    y, x = (frame.permute(2, 0, 1).unsqueeze(1).double() for frame in (y_HWC, x_HWC))
    mean_y, mean_x = _smooth(y), _smooth(x)
    var_y, var_x = _smooth(y * y) - mean_y**2, _smooth(x * x) - mean_x**2
    covariance = _smooth(y * x) - mean_y * mean_x
    luminance = (2 * mean_y * mean_x + SSIM_C1) / (mean_y**2 + mean_x**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (var_y + var_x + SSIM_C2)
    return _mean(luminance * structure)


def _smooth(planes: Tensor) -> Tensor:
    axis = torch.arange(WINDOW, dtype=planes.dtype, device=planes.device) - WINDOW // 2
    kernel = torch.exp(-(axis**2) / (2 * WINDOW_SIGMA**2))
    kernel = kernel / kernel.sum()
    return F.conv2d(F.conv2d(planes, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def _high_energy(clip: Tensor) -> float:
    spectrum = torch.fft.rfft(clip, dim=0)
    frequency = torch.fft.rfftfreq(len(clip), device=clip.device)
    return float(spectrum[frequency > 0.25].abs().square().sum(dtype=torch.float64))


def _seam_ratio(clip: Tensor, at_seam: Tensor) -> float:
    change_T = clip.diff(dim=0).abs().mean(dim=(1, 2, 3), dtype=torch.float64)
    at_seam = at_seam.to(clip.device)
    return _ratio(float(change_T[at_seam].mean()), float(change_T[~at_seam].mean()))
