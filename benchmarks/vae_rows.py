"""One picture decoded by several ranks, each its rows: ours beside distvae, same random weights.

    python -m benchmarks.vae_rows --device cuda --ranks 2 4 --out benchmarks/results/vae_rows.json

Ours is a `RowParallelVae`, distvae's a decoder of diffusers' `AutoencoderKLWan` that it has rebuilt. Each is compared
with its own single rank, which works while the others wait.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from distvae.vae import parallelize_decoder
from torch import Tensor
from torch import distributed as dist

from benchmarks.harness import Timing, relative_error, slowest, time_once, write_report
from reelray.workers.models.wan.vae import WanVae, WanVaeConfig
from reelray.workers.parallel.local_ranks import LocalRank, run_ranks
from reelray.workers.parallel.vae_rows import GroupRows, RowParallelVae

DTYPES = {"cuda": torch.bfloat16, "cpu": torch.float32}
# relative to one rank; bfloat16 rounds other row counts otherwise
LIMITS = {"cuda": 2e-2, "cpu": 1e-5}

Row = dict[str, Any]
Call = Callable[[], Tensor | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A VAE and a clip.

    Args:
        base_dim: Channels of the finest stage.
        blocks: Residual blocks of a stage.
        frames: Latent frames.
        height: Latent rows.
        width: Latent columns.
    """

    base_dim: int
    blocks: int
    frames: int
    height: int
    width: int


CASES = {
    "cuda": {
        "Wan 480x832x81": Case(base_dim=96, blocks=2, frames=21, height=60, width=104),
        "Wan 720x1280x81": Case(base_dim=96, blocks=2, frames=21, height=90, width=160),
    },
    "cpu": {
        "sprites 128x192x9": Case(base_dim=16, blocks=1, frames=3, height=16, width=24),
        "larger 112x144x5": Case(base_dim=32, blocks=2, frames=2, height=14, width=18),
    },
}


def build(case: Case, rank: LocalRank) -> tuple[AutoencoderKLWan, AutoencoderKLWan, WanVae]:
    """The VAE for one rank, for distvae and ours, same weights on every rank."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"base_dim": case.base_dim, "num_res_blocks": case.blocks}
    alone = AutoencoderKLWan(**shape).eval().requires_grad_(False)
    for name, parameter in alone.named_parameters():
        if name.endswith("gamma"):
            parameter.data += 0.1 * torch.randn_like(parameter)
    ours = WanVae(WanVaeConfig(**shape))
    ours.load_state_dict(alone.state_dict())
    shared = AutoencoderKLWan(**shape).eval().requires_grad_(False)
    shared.load_state_dict(alone.state_dict())
    dtype = DTYPES[rank.device.type]
    shared = shared.to(rank.device, dtype)
    parallelize_decoder(shared, dist.group.WORLD)
    return alone.to(rank.device, dtype), shared, ours.to_inference(rank.device, dtype)


def contenders(case: Case, rank: LocalRank) -> dict[str, Call]:
    """What is timed; calls with "one rank" in their name do nothing on the other ranks."""
    alone, shared, ours = build(case, rank)
    generator = torch.Generator(rank.device).manual_seed(1)
    shape = (1, 16, case.frames, case.height, case.width)
    latents = torch.randn(shape, generator=generator, device=rank.device).to(DTYPES[rank.device.type])
    assert dist.group.WORLD is not None
    rows = RowParallelVae(ours, GroupRows(dist.group.WORLD, case.height), scale=8)

    def decode_rows() -> Tensor:
        return rows.decode(latents, ours.new_decode_state())

    def on_first(call: Callable[[], Tensor]) -> Call:
        return call if rank.rank == 0 else lambda: None

    return {
        "diffusers, one rank": on_first(lambda: alone.decode(latents).sample),
        "ours, one rank": on_first(lambda: ours.decode(latents, ours.new_decode_state())),
        "distvae, whole video on every rank": lambda: shared.decode(latents).sample,
        "ours, whole video on every rank": lambda: rows.rows.gather(decode_rows(), 3),
        "ours, bytes on one rank": lambda: rows.gather_pixels(decode_rows(), to=0),
    }


def check(calls: dict[str, Call], rank: LocalRank) -> list[Row]:
    """Errors against one rank, on the first rank; every rank calls it."""
    found: dict[str, Tensor | None] = {}
    rows: list[Row] = []
    for name, call in calls.items():
        on_gpu = rank.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        found[name] = call()
        if on_gpu:
            rows.append({"what": f"{name}: peak bytes", "value": torch.cuda.max_memory_allocated()})
    if rank.rank > 0:
        return rows
    limit = LIMITS[rank.device.type]
    for name, single in (
        ("distvae, whole video on every rank", "diffusers, one rank"),
        ("ours, whole video on every rank", "ours, one rank"),
        ("ours, one rank", "diffusers, one rank"),
    ):
        value, reference = found[name], found[single]
        assert value is not None
        assert reference is not None
        rows.append(
            {
                "what": f"{name}, against {single}",
                "max_abs": float((value.float() - reference.float()).abs().max()),
                "relative_error": relative_error(value, reference),
                "limit": limit,
            }
        )
    return rows


@torch.inference_mode()
def run_rank(rank: LocalRank, runs: int) -> tuple[list[Row], dict[str, dict[str, list[float]]]]:
    """Check, then time in turn, on this rank."""
    torch.backends.cudnn.benchmark = True
    rows: list[Row] = []
    samples: dict[str, dict[str, list[float]]] = {}
    for case_name, case in CASES[rank.device.type].items():
        calls = contenders(case, rank)
        rows += [row | {"what": f"{case_name}, {rank.ranks} ranks: {row['what']}"} for row in check(calls, rank)]
        taken: dict[str, list[float]] = {name: [] for name in calls}
        busy: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(runs):
            for name, call in calls.items():
                dist.barrier()
                before = time.process_time()
                taken[name].append(time_once(call))
                busy[name].append((time.process_time() - before) * 1e3)
        samples[case_name] = taken
        if rank.device.type == "cpu":
            # Where others use the machine too, this says more than the clock on the wall.
            medians = {name: statistics.median(ms) for name, ms in busy.items()}
            rows.append({"what": f"{case_name}, {rank.ranks} ranks: processor ms of this rank", "value": medians})
    return rows, samples


def main() -> None:
    """Check, time, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/vae_rows.json"))
    parser.add_argument("--device", choices=sorted(CASES), default="cuda")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    rows: list[Row] = []
    tables: dict[str, dict[str, Timing]] = {}
    for ranks in options.ranks:
        results = run_ranks(run_rank, options.runs, ranks=ranks, device=options.device, deadline_s=500)
        rows += [row | {"rank": rank} for rank, (found, _) in enumerate(results) for row in found]
        for case, names in results[0][1].items():
            table = {name: slowest([samples[case][name] for _, samples in results]) for name in names}
            tables[f"{case}, {ranks} ranks"] = table
            for name, timing in table.items():
                print(f"{case:20} {ranks} ranks  {name:36} {timing.median_ms:9.1f} ms", flush=True)
    for row in rows:
        if "max_abs" in row:
            print(f"{row['what']}: max abs {row['max_abs']:.1e}, relative {row['relative_error']:.1e}")
    write_report(options.out, "vae_rows", rows, tables)
    if any(not row["relative_error"] <= row["limit"] for row in rows if "limit" in row):
        sys.exit("wrong result")


if __name__ == "__main__":
    main()
