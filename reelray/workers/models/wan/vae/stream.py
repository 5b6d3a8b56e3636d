"""Advance a causal state: time cut into short calls, frames cut into tiles.

Shapes: B batch, C channels, T frames of the input's kind (pixel or latent), H/W height/width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reelray.proto.errors import SizeError
from reelray.workers.models.wan.vae.state import CausalState, Slots
from reelray.workers.models.wan.vae.tiling import cut_spans, cut_tiles, join_tiles

First = Callable[[Tensor], tuple[Tensor, Slots]]
Step = Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, Slots]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Direction:
    """One direction of the VAE as `advance` needs it.

    Args:
        first: Begins a video: input to (output, slots).
        step: Goes on: (input, slots) to (output, new slots).
        frames_per_latent: Input frames that make one latent frame, after the first.
        scale_in: Input positions per latent, along each side.
        scale_out: Output positions per latent, along each side.
    """

    first: First
    step: Step
    frames_per_latent: int
    scale_in: int
    scale_out: int


def advance(x_BCTHW: Tensor, state: CausalState, way: Direction, latents_per_call: int) -> Tensor:
    """Run `x_BCTHW` through one direction and bring `state` forward; if a call raises, `state` is unchanged.

    Raises:
        SizeError: If the batch, the number of frames or the frame size does not go on from `state`.
    """
    _check_batch(x_BCTHW, state)
    height, width = x_BCTHW.shape[3] // way.scale_in, x_BCTHW.shape[4] // way.scale_in
    rows, columns = cut_spans(height, state.tiling), cut_spans(width, state.tiling)
    if state.tiles and len(state.tiles) != len(rows) * len(columns):
        raise SizeError(f"{height}x{width} latents give {len(rows) * len(columns)} tiles, the state has another number")
    calls = call_sizes(x_BCTHW.shape[2], way.frames_per_latent, latents_per_call, begun=state.latent_frames > 0)
    tiles, outs = [], []
    for index, tile in enumerate(cut_tiles(x_BCTHW, rows, columns, way.scale_in)):
        slots = state.tiles[index] if state.tiles else None
        _check_size(tile, slots)
        out, slots = _run_calls(tile, slots, way, calls)
        outs.append(out)
        tiles.append(slots)
    joined = outs[0] if len(outs) == 1 else join_tiles(outs, rows, columns, way.scale_out)
    state.tiles = tuple(tiles)
    state.latent_frames += _latents_in(x_BCTHW.shape[2], way.frames_per_latent, begun=state.latent_frames > 0)
    return joined


def call_sizes(frames: int, frames_per_latent: int, latents_per_call: int, *, begun: bool) -> list[int]:
    """Cut `frames` input frames into calls of at most `latents_per_call` latent frames.

    Raises:
        SizeError: If the frames do not fill whole latent frames.
    """
    left = _latents_in(frames, frames_per_latent, begun=begun)
    sizes: list[int] = []
    while left > 0:
        latents = min(left, latents_per_call)
        starts = not begun and not sizes
        sizes.append(1 + (latents - 1) * frames_per_latent if starts else latents * frames_per_latent)
        left -= latents
    return sizes


def _latents_in(frames: int, frames_per_latent: int, *, begun: bool) -> int:
    lead = 0 if begun else 1
    if frames < 1 or (frames - lead) % frames_per_latent:
        start = f"1, {1 + frames_per_latent}, ..." if lead else f"{frames_per_latent}, {2 * frames_per_latent}, ..."
        raise SizeError(f"{frames} frames: a call at this point of the video takes {start}")
    return lead + (frames - lead) // frames_per_latent


def _run_calls(x_BCTHW: Tensor, slots: Slots | None, way: Direction, calls: Sequence[int]) -> tuple[Tensor, Slots]:
    outs = []
    for part in torch.split(x_BCTHW, list(calls), dim=2):
        out, slots = way.first(part) if slots is None else way.step(part, slots)
        outs.append(out)
    assert slots is not None
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=2), slots


def _check_batch(x_BCTHW: Tensor, state: CausalState) -> None:
    if x_BCTHW.dim() != 5 or x_BCTHW.shape[0] != state.batch:
        raise SizeError(f"shape {tuple(x_BCTHW.shape)}: the state wants (B, C, T, H, W) with B={state.batch}")


def _check_size(tile_BCTHW: Tensor, slots: Slots | None) -> None:
    """The first slot is the past of the first layer, which has the input's size."""
    if slots is not None and slots[0].shape[3:] != tile_BCTHW.shape[3:]:
        found, wanted = tuple(tile_BCTHW.shape[3:]), tuple(slots[0].shape[3:])
        raise SizeError(f"frame or tile of {found} positions, but this video began with {wanted}")
