"""Self-attention of one layer over several ranks at Wan shapes, random data.

Every layout with ours in some numbers of head groups and with xfuser's `USP`, beside one rank. What it measures on CUDA
goes into `reelray.workers.parallel.attention_choice.MEASURED`.

python -m benchmarks.sequence_attention --device cuda --ranks 4 --out benchmarks/results/sequence_attention.json
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from benchmarks.harness import Timing, relative_error, slowest, time_once, write_report
from reelray.kernels.attention.api import attend
from reelray.proto.layout import Layout
from reelray.workers.models.attention_op import AttentionOp
from reelray.workers.parallel.local_ranks import LocalRank, run_ranks
from reelray.workers.parallel.mesh import Mesh
from reelray.workers.parallel.sequence_attention import SequenceAttention
from reelray.workers.parallel.token_split import TokenSplit
from reelray.workers.parallel.xfuser_attention import Xfuser, XfuserAttention, explain_refusal
from tests.support.xfuser_on_cpu import load_xfuser

# latent frames, places, heads, head width
SHAPES = {
    "cuda": {"1.3B 480p": (21, 1560, 12, 128), "14B 480p": (21, 1560, 40, 128), "14B 720p": (21, 3600, 40, 128)},
    "cpu": {"tiny": (5, 131, 12, 64), "even": (5, 132, 12, 64)},
}
DTYPES = {"cuda": torch.bfloat16, "cpu": torch.float32}
LIMITS = {"cuda": 1e-2, "cpu": 1e-6}
HEAD_GROUPS = (1, 2, 3)

Shape = tuple[int, int, int, int]
Row = dict[str, Any]


def layouts(ranks: int) -> list[Layout]:
    """Every ring x ulysses that uses all ranks."""
    degrees = [ulysses for ulysses in range(1, ranks + 1) if ranks % ulysses == 0]
    return [Layout(ring=ranks // ulysses, ulysses=ulysses) for ulysses in reversed(degrees)]


def run_rank(rank: LocalRank, runs: int) -> tuple[list[Row], dict[str, dict[str, list[float]]]]:
    """Check and time every shape on this rank."""
    device = rank.device.type
    xfuser = load_xfuser()
    mesh = Mesh.create(layouts(rank.ranks), rank.device)
    rows: list[Row] = []
    samples: dict[str, dict[str, list[float]]] = {}
    for name, shape in SHAPES[device].items():
        found, samples[name] = measure(mesh, shape, rank, runs, xfuser)
        rows += [row | {"what": f"{name} {row['what']}", "limit": LIMITS[device]} for row in found]
    mesh.close()
    return rows, samples


@torch.inference_mode()
def measure(
    mesh: Mesh, shape: Shape, rank: LocalRank, runs: int, xfuser: Xfuser
) -> tuple[list[Row], dict[str, list[float]]]:
    """Compare with attention on one rank, then time; every rank calls it."""
    frames, places, heads, width = shape
    generator = torch.Generator(rank.device).manual_seed(0)
    dtype = DTYPES[rank.device.type]
    whole = [
        torch.randn(1, frames * places, heads, width, device=rank.device, generator=generator).to(dtype)
        for _ in range(3)
    ]
    rows: list[Row] = []
    samples = {"one rank": time_runs(lambda: attend(*whole), runs)}
    expected_BSND = attend(*whole)
    for layout in layouts(rank.ranks):
        lane = mesh.lane(layout)
        split = TokenSplit(
            frames=frames, places=places, ring=layout.ring, ulysses=layout.ulysses, index=lane.sequence.index
        )
        parts = [torch.unflatten(split.take(part_BSND.flatten(2)), 2, (heads, width)) for part_BSND in whole]
        wanted_BSND = torch.unflatten(split.take(expected_BSND.flatten(2)), 2, (heads, width))
        attentions: dict[str, AttentionOp] = {
            f"{layout}, {groups} head groups": SequenceAttention(lane, split, head_groups=groups)
            for groups in (HEAD_GROUPS if layout.ulysses > 1 else (1,))
        }
        refusal = explain_refusal(split, heads)
        if refusal is not None:
            rows.append({"what": f"{layout}, xfuser", "refused": refusal})
        else:
            attentions[f"{layout}, xfuser"] = XfuserAttention(lane, split, xfuser)
            if layout.ulysses > 1:
                attentions[f"{layout}, xfuser, 3 exchanges"] = XfuserAttention(lane, split, xfuser, packed=False)
        for name, attention in attentions.items():
            call = partial(attend_once, attention, parts)
            rows.append({"what": name, "relative_error": relative_error(call(), wanted_BSND)})
            samples[name] = time_runs(call, runs)
    return rows, samples


def attend_once(attention: AttentionOp, parts: Sequence[Tensor]) -> Tensor:
    """Call the op as a block does."""
    q_BSND, k_BSND, v_BSND = parts
    return attention(q_BSND, k_BSND, v_BSND, layer=0, cos_BSP=q_BSND, sin_BSP=q_BSND)


def time_runs(call: Any, runs: int) -> list[float]:
    """Milliseconds of each run; ranks start together."""
    call(), call()
    found = []
    for _ in range(runs):
        dist.barrier()
        found.append(time_once(call))
    return found


def main() -> None:
    """Check, time, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/sequence_attention.json"))
    parser.add_argument("--device", choices=sorted(SHAPES), default="cuda")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    results = run_ranks(run_rank, options.runs, ranks=options.ranks, device=options.device, deadline_s=500)
    rows = [row | {"rank": rank} for rank, (found, _) in enumerate(results) for row in found]
    tables: dict[str, dict[str, Timing]] = {}
    for shape, names in results[0][1].items():
        tables[shape] = {name: slowest([samples[shape][name] for _, samples in results]) for name in names}
        alone = tables[shape]["one rank"].median_ms
        for name, timing in tables[shape].items():
            speed = alone / timing.median_ms
            print(f"{shape:10} {name:36} {timing.median_ms:9.3f} ms  {speed:5.2f}x", flush=True)
    write_report(options.out, "sequence_attention", rows, tables)
    if any(not row["relative_error"] <= row["limit"] for row in rows if "refused" not in row):
        sys.exit("wrong result")


if __name__ == "__main__":
    main()
