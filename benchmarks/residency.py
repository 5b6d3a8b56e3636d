"""One forward with resident, offloaded and sharded weights: time and peak memory, same random weights and bits.

    python -m benchmarks.residency --ranks 1
    python -m benchmarks.residency --ranks 4 --out benchmarks/results/residency_4.json
    python -m benchmarks.residency --device cpu --tiny --ranks 2

Wan2.1 14B, 480x832, 81 frames, one branch; several ranks share the tokens by Ulysses. Each way is first compared with
resident weights, bit by bit, while its peak is measured; then all run in turn. Peaks are those of the fullest rank,
from before the weights are drawn to after the first forward, without what other ways hold at the time.
"""

import argparse
import gc
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Timing, slowest, write_report
from reelray.proto.layout import Layout
from reelray.proto.residency import Blocks
from reelray.workers.bench.timing import start_together, time_once
from reelray.workers.models.registry import preset_source
from reelray.workers.models.sharding import Sharding, WholeWindow
from reelray.workers.models.wan.bench_model import TIMESTEP, draw_transformer
from reelray.workers.models.wan.block_ops import choose_ops
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.parallel.attention_choice import load_choice
from reelray.workers.parallel.local_ranks import LocalRank, run_ranks
from reelray.workers.parallel.mesh import Lane, Mesh, find_share
from reelray.workers.parallel.sequence_sharding import SequenceSharding
from reelray.workers.parallel.weight_gather import WeightGather
from reelray.workers.recipes.presets import load_presets
from reelray.workers.residency.shared_blocks import use_gather

PRESET = "wan2.1-t2v-14b"
FULL, TINY = (21, 60, 104), (3, 8, 16)  # latent frames, rows, columns
DTYPES = {"cuda": torch.bfloat16, "cpu": torch.float32}
TEXT_TOKENS = 512
SEED = 3

Row = dict[str, Any]


class Contender:
    """One way to hold the weights, and the forward with them.

    Args:
        way: Where the blocks are.
        rank: This rank.
        lane: Its place in the layout.
        tiny: Shrink the network and the clip.
    """

    def __init__(self, way: Blocks, rank: LocalRank, lane: Lane, *, tiny: bool) -> None:
        preset = next(preset for preset in load_presets() if preset.recipe.name == PRESET)
        config = WanConfig.from_diffusers(preset_source(preset, tiny=tiny).transformer)
        share = find_share(lane.layout, rank.rank) if way is Blocks.SHARDED else None
        self.model = draw_transformer(config, rank.device, DTYPES[rank.device.type], seed=SEED, blocks=way, share=share)
        self.model.use_ops(choose_ops(rank.device))
        if way is Blocks.SHARDED:
            assert lane.weights is not None
            use_gather(self.model.source, WeightGather(lane.weights))
        self._sharding: Sharding = WholeWindow()
        if lane.sequence.size > 1:
            self._sharding = SequenceSharding(lane, make_attention=load_choice(lane))
        self._size = TINY if tiny else FULL
        generator = torch.Generator().manual_seed(SEED)
        latents = torch.randn(1, config.in_channels, *self._size, generator=generator)
        text = torch.randn(1, TEXT_TOKENS, config.text_dim, generator=generator)
        self._latents, self._timestep = latents.to(rank.device), torch.tensor([TIMESTEP], device=rank.device)
        with torch.inference_mode():
            self._context = self.model.prepare_text(text.to(rank.device), merge_padding=False)

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        """One forward; a collective of the lane."""
        frames, rows, columns = self._size
        shard = self._sharding.shard(frames, rows * columns // 4)
        prediction: Tensor = self.model(self._latents, self._timestep, self._context, shard=shard)
        return prediction


def run_rank(rank: LocalRank, runs: int, tiny: str) -> tuple[list[Row], dict[str, list[float]]]:
    """Check, then time every way on this rank; every rank calls it."""
    layout = Layout(ulysses=rank.ranks)
    mesh = Mesh.create([layout], rank.device, shares_weights=rank.ranks > 1)
    ways = [way for way in Blocks if way is not Blocks.SHARDED or rank.ranks > 1]
    rows: list[Row] = []
    contenders: dict[str, Contender] = {}
    wanted: Tensor | None = None
    for way in ways:
        before = start_peak(rank.device)
        contenders[way] = Contender(way, rank, mesh.lane(layout), tiny=tiny == "tiny")
        found = contenders[way]()
        wanted = found if wanted is None else wanted
        gap = float((found.float() - wanted.float()).abs().max())
        scale = float(wanted.float().abs().mean())
        rows.append({"what": str(way), "max_abs": gap, "scale": scale, "peak_bytes": read_peak(rank.device) - before})
    samples: dict[str, list[float]] = {way: [] for way in contenders}
    for run in range(runs + 1):
        for name, contender in contenders.items():
            start_together(rank.device)
            took_ms = time_once(contender, rank.device)
            if run:  # the first one warms up
                samples[name].append(took_ms)
    mesh.close()
    return rows, samples


def start_peak(device: torch.device) -> int:
    """Forget the peak; returns the bytes that are held now. 0 on a CPU, where nothing counts them."""
    gc.collect()
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def read_peak(device: torch.device) -> int:
    """Most bytes held since `start_peak`."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def main() -> None:
    """Check, time, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/residency.json"))
    parser.add_argument("--device", choices=sorted(DTYPES), default="cuda")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limit", type=float, default=240, help="seconds")
    parser.add_argument("--tiny", action="store_true", help="a shrunk network, to try this script on a CPU")
    options = parser.parse_args()
    results = run_ranks(
        run_rank,
        options.runs,
        "tiny" if options.tiny else "full",
        ranks=options.ranks,
        device=options.device,
        deadline_s=options.limit,
    )
    rows = [row | {"rank": rank} for rank, (found, _) in enumerate(results) for row in found]
    table: dict[str, Timing] = {name: slowest([samples[name] for _, samples in results]) for name in results[0][1]}
    for name, timing in table.items():
        peak = max(row["peak_bytes"] for row in rows if row["what"] == name)
        print(f"{options.ranks} ranks  {name:10} {timing.median_ms:9.1f} ms  {peak / 1e9:6.2f} GB", flush=True)
    write_report(options.out, "residency", rows, {f"{options.ranks} ranks": table})
    wrong = [row for row in rows if row["max_abs"] != 0 or not row["scale"] > 0]
    if wrong:
        sys.exit(f"not equal to resident weights: {wrong}")


if __name__ == "__main__":
    main()
