"""Decode of one clip by one rank and by rows over all ranks: checked, then timed. Rows are as in `forwards`."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from reelray.workers.bench.case import BenchModel, ParallelCase
from reelray.workers.bench.forwards import OURS, Row, add_samples
from reelray.workers.bench.timing import gather, relative_error, time_interleaved
from reelray.workers.parallel.vae_rows import GroupRows, RowParallelVae

DECODE, BYTES = "decode", "decode to bytes"
"""Pixels stay where they were decoded; or the whole clip as bytes on rank 0."""
LIMITS = {torch.bfloat16: 0.02, torch.float32: 1e-4}


def measure_decode(case: ParallelCase, model: BenchModel, *, stop_at_s: float) -> list[Row]:
    """Compare rows with the whole picture, then time both; every rank calls it."""
    facts, group = case.source.facts, dist.group.WORLD
    assert group is not None, "ranks have joined a world"
    generator = torch.Generator().manual_seed(case.seed + 2)
    shape = (1, facts.latent_channels, case.latent_frames, case.rows, case.columns)
    latents = torch.randn(shape, generator=generator).to(model.device, model.vae_dtype)
    rows = GroupRows(group, case.rows)
    shared = RowParallelVae(model.vae, rows, scale=facts.spatial_stride)
    whole = decode_alone(model.vae, latents)
    errors = gather(relative_error(rows.gather(decode_rows(shared, latents), 3), whole))
    limit = LIMITS[model.vae_dtype]
    wrong = any(not error <= limit for error in errors)
    names = {DECODE: (decode_alone, decode_rows), BYTES: (bytes_alone, bytes_rows)}
    found: list[Row] = []
    runs: dict[str, Any] = {}
    for what, (alone, together) in names.items():
        one = {"what": what, "by": OURS, "layout": "", "ranks": 1, "error": 0.0, "limit": limit, "wrong": False}
        many = {**one, "layout": f"rows={group.size()}", "ranks": group.size(), "error": max(errors), "wrong": wrong}
        found += [one, many]
        runs |= {
            f"{what}, one rank": partial(alone, model.vae, latents),
            f"{what}, rows": partial(together, shared, latents),
        }
    if wrong:
        return found
    del whole
    samples = time_interleaved(runs, model.device, runs=case.runs, warmup=case.warmup, stop_at_s=stop_at_s)
    return add_samples(found, samples)


def decode_alone(vae: Any, latents_BCTHW: Tensor) -> Tensor:
    """The whole picture on this rank."""
    video: Tensor = vae.decode(latents_BCTHW, vae.new_decode_state())
    return video


def decode_rows(shared: RowParallelVae, latents_BCTHW: Tensor) -> Tensor:
    """This rank's rows."""
    vae: Any = shared.vae
    return shared.decode(latents_BCTHW, vae.new_decode_state())


def bytes_alone(vae: Any, latents_BCTHW: Tensor) -> Tensor:
    """The whole picture as bytes, frame by frame."""
    levels_BCTHW = decode_alone(vae, latents_BCTHW).float().mul(127.5).add(127.5).round().clamp(0, 255)
    return levels_BCTHW.to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()


def bytes_rows(shared: RowParallelVae, latents_BCTHW: Tensor) -> Tensor | None:
    """The whole picture as bytes on rank 0."""
    return shared.gather_pixels(decode_rows(shared, latents_BCTHW), to=0)
