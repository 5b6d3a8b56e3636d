"""One transformer forward on one GPU: ours beside diffusers compiled with cuDNN attention, random weights, bf16.

    python -m benchmarks.transformer --models 1.3b 14b --out benchmarks/results/transformer.json

Both hold the same weights. Correctness first: both bf16 results against diffusers in float32 on a small input, and
against each other on the timed input. Text is 512 full slots for both (no slot is merged away).
"""

import argparse
import gc
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from benchmarks.harness import Timing, relative_error, time_interleaved, write_report
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.key_map import checkpoint_views
from reelray.workers.models.wan.transformer import WanTransformer

SIZES: dict[str, dict[str, int]] = {
    "1.3b": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "14b": {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
}
SHAPES: dict[str, tuple[int, int, int]] = {"480x832x81": (21, 60, 104), "480x832x9, one chunk": (3, 60, 104)}
LIMIT = 0.02


def build_pair(size: dict[str, int]) -> tuple[WanTransformer3DModel, WanTransformer]:
    """The same random weights in both modules, bf16 on the GPU."""
    torch.manual_seed(0)
    with torch.device("meta"):
        theirs = WanTransformer3DModel(attention_head_dim=128, **size)
        ours = WanTransformer(WanConfig(attention_head_dim=128, **size))
    theirs = theirs.to_empty(device="cuda").bfloat16()
    ours = ours.to_empty(device="cuda").bfloat16()
    with torch.device("cuda"):
        fresh = WanTransformer3DModel(attention_head_dim=128, **{**size, "num_layers": 1})
    theirs.rope = fresh.rope  # buffers that have no weights
    for name, parameter in theirs.named_parameters():
        if parameter.ndim > 1 and parameter.shape[0] > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif "norm" in name and name.endswith("weight"):
            torch.nn.init.normal_(parameter, mean=1.0, std=0.1)
        else:
            torch.nn.init.normal_(parameter, std=0.1)
    weights = dict(theirs.named_parameters())
    for name, view in checkpoint_views(ours).items():
        view.copy_(weights[name])
    ours.rope.fill("cuda")
    return theirs.eval().requires_grad_(False), ours.eval().requires_grad_(False)


def inputs(shape: tuple[int, int, int], layers: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random latents, one timestep and 512 text embeddings."""
    del layers
    latents = torch.randn(1, 16, *shape, device="cuda", dtype=torch.bfloat16)
    return latents, torch.tensor([700.0], device="cuda"), torch.randn(1, 512, 4096, device="cuda", dtype=torch.bfloat16)


def run_theirs(model: WanTransformer3DModel, arguments: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """One forward of diffusers' module."""
    latents, timestep, text = arguments
    result: Tensor = model(latents, timestep, text, return_dict=False)[0]
    return result


def check(name: str, size: dict[str, int]) -> list[dict[str, Any]]:
    """Two blocks of the real width: float32 diffusers is the truth."""
    theirs, ours = build_pair({**size, "num_layers": 2})
    arguments = inputs((3, 16, 26), 2)
    theirs_bf16 = run_theirs(theirs, arguments)
    ours_bf16 = ours(arguments[0], arguments[1], arguments[2])
    ours.compile_blocks()
    ours_compiled = ours(arguments[0], arguments[1], arguments[2])
    truth = run_theirs(theirs.float(), tuple(a.float() for a in arguments))  # type: ignore[arg-type]
    found = {"diffusers bf16": theirs_bf16, "ours bf16": ours_bf16, "ours bf16 compiled": ours_compiled}
    limits = {"diffusers bf16": None, "ours bf16": LIMIT, "ours bf16 compiled": LIMIT}
    return [
        {"what": f"{name}: {what} against diffusers fp32", "relative_error": relative_error(x, truth), "limit": limits[what]}
        for what, x in found.items()
    ]


def time_model(size: dict[str, int], shapes: list[str], runs: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Time both on each shape."""
    theirs, ours = build_pair(size)
    theirs.set_attention_backend("_native_cudnn")
    theirs.compile_repeated_blocks(fullgraph=True)
    ours.compile_blocks()
    rows: list[dict[str, Any]] = []
    tables: dict[str, dict[str, Timing]] = {}
    for shape in shapes:
        arguments = inputs(SHAPES[shape], size["num_layers"])
        context = ours.prepare_text(arguments[2])
        error = relative_error(ours(arguments[0], arguments[1], context), run_theirs(theirs, arguments))
        rows.append({"what": f"{shape}: ours against diffusers, both bf16", "relative_error": error, "limit": 0.05})
        tables[shape] = time_interleaved(
            {
                "diffusers compiled + cuDNN": lambda a=arguments: run_theirs(theirs, a),
                "ours": lambda a=arguments, c=context: ours(a[0], a[1], c),
                "ours, text projected anew": lambda a=arguments: ours(a[0], a[1], a[2]),
            },
            runs=runs,
        )
    return rows, tables


@torch.no_grad()
def main() -> None:
    """Check, then time, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/transformer.json"))
    parser.add_argument("--models", nargs="+", default=["1.3b", "14b"], choices=sorted(SIZES))
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    tables: dict[str, dict[str, Timing]] = {}
    for name in options.models:
        rows += check(name, SIZES[name])
        found, timed = time_model(SIZES[name], list(SHAPES) if name == "1.3b" else ["480x832x81"], options.runs)
        rows += [{**row, "what": f"{name} {row['what']}"} for row in found]
        tables |= {f"{name} {shape}": table for shape, table in timed.items()}
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
    for row in rows:
        print(row)
    for shape, table in tables.items():
        for contender, timing in table.items():
            print(f"{shape:28s} {contender:30s} {timing.median_ms:9.1f} ms")
    write_report(options.out, "transformer", rows, tables)
    if any(row["limit"] and not row["relative_error"] <= row["limit"] for row in rows):
        sys.exit("wrong result")


if __name__ == "__main__":
    main()
