"""One transformer forward on one GPU: ours beside diffusers compiled with cuDNN attention, random weights, bf16.

    python -m benchmarks.transformer --models 1.3b 14b --out benchmarks/results/transformer.json

All contenders hold the same weights. Correctness first: two blocks in bf16 against diffusers in float32 on a small
input; then every contender against diffusers on the timed input. Text is 512 full slots, or a prompt of 60 words and
zeros up to 512, which ours merges into a few keys, as the engine does (exact; `merge_zero_tokens`). Keys and values of
the text are made once a request in ours, once a forward in diffusers. A small forward of ours is a CUDA graph.
"""

import argparse
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from benchmarks.harness import Timing, profile_kernels, relative_error, time_interleaved, write_report
from reelray.workers.models.captured import choose_stages
from reelray.workers.models.sharding import WholeWindow
from reelray.workers.models.stages import Stages
from reelray.workers.models.wan.block_ops import FUSED_OPS, TORCH_OPS, BlockOps
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.key_map import checkpoint_views
from reelray.workers.models.wan.text_context import TextContext
from reelray.workers.models.wan.transformer import WanTransformer
from reelray.workers.models.wan.weights import empty_transformer

SIZES = {"1.3b": WanConfig(num_attention_heads=12, ffn_dim=8960, num_layers=30), "14b": WanConfig()}
# latent frames, height, width; words of the prompt, the other of 512 slots being zero as pipelines send them
SHAPES: dict[str, tuple[int, int, int, int]] = {
    "480x832x81": (21, 60, 104, 512),
    "480x832x81, 60 words": (21, 60, 104, 60),
    "480x832 one chunk of 3": (3, 60, 104, 512),
}
LIMIT = 0.02
Inputs = tuple[Tensor, Tensor, Tensor]


@dataclass(kw_only=True, slots=True)
class Findings:
    """What was seen of one model.

    Args:
        rows: Errors.
        tables: Times by shape and contender.
        profiles: Kernels by shape and contender.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, dict[str, Timing]] = field(default_factory=dict)
    profiles: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def build_diffusers(config: WanConfig) -> WanTransformer3DModel:
    """diffusers' module on the GPU with seeded random weights of realistic scale, in the dtypes ours has."""
    with torch.device("meta"):
        theirs = WanTransformer3DModel(**{k: v for k, v in config.to_diffusers().items() if k != "_class_name"})
    dtypes = {name: v.dtype for name, v in checkpoint_views(empty_transformer(config, "meta", torch.bfloat16)).items()}
    for name, parameter in list(theirs.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        data = torch.empty(parameter.shape, device="cuda", dtype=dtypes[name])
        weight = torch.nn.Parameter(fill(data, name), requires_grad=False)
        theirs.get_submodule(owner).register_parameter(leaf, weight)
    theirs.rope = type(theirs.rope)(config.attention_head_dim, config.patch_size, config.rope_max_seq_len).cuda()
    theirs.eval()
    return theirs


def fill(data: Tensor, name: str) -> Tensor:
    """Draw a weight: gains near one, matrices by fan-in."""
    if data.ndim == 1 and "norm" in name and name.endswith("weight"):
        return data.normal_(1, 0.05)
    return data.normal_(0, 0.02 if data.ndim == 1 else data[0].numel() ** -0.5)


def build_ours(config: WanConfig, weights: dict[str, Tensor], ops: BlockOps, *, compiled: bool) -> WanTransformer:
    """Our module with the same weights."""
    ours = empty_transformer(config, "cuda", torch.bfloat16)
    for name, view in checkpoint_views(ours).items():
        view.copy_(weights[name])
    ours.eval().requires_grad_(requires_grad=False)
    ours.use_ops(ops)
    if compiled:
        ours.compile_blocks(dynamic=False)
    return ours


def draw_inputs(config: WanConfig, shape: tuple[int, int, int], words: int = 512) -> Inputs:
    """Random latents, one timestep and 512 text embeddings, zero behind the words."""
    latents = torch.randn(1, config.in_channels, *shape, device="cuda", dtype=torch.bfloat16)
    text = torch.randn(1, 512, config.text_dim, device="cuda", dtype=torch.bfloat16)
    text[:, words:] = 0
    return latents, torch.tensor([700.0], device="cuda"), text


def run_diffusers(model: WanTransformer3DModel, inputs: Inputs) -> Tensor:
    """One forward of diffusers' module."""
    result: Tensor = model(*inputs, return_dict=False)[0]
    return result


def run_ours(model: WanTransformer, stages: Stages, window: WholeWindow, inputs: Inputs, text: TextContext) -> Tensor:
    """One forward of our module as the engine runs it: a small one is a CUDA graph from its second time on."""
    return stages.evaluate(model.open_forward(inputs[0], inputs[1], text, shard=window))


def check(name: str, config: WanConfig) -> list[dict[str, Any]]:
    """Two blocks of the real width: float32 diffusers is the truth."""
    short = WanConfig(num_attention_heads=config.num_attention_heads, ffn_dim=config.ffn_dim, num_layers=2)
    theirs = build_diffusers(short)
    weights = theirs.state_dict()
    inputs = draw_inputs(short, (3, 16, 26))
    found = {"diffusers": run_diffusers(theirs, inputs)}
    for label, ops in (("ours, torch ops", TORCH_OPS), ("ours, fused ops", FUSED_OPS)):
        found[label] = build_ours(short, weights, ops, compiled=False)(*inputs)
    truth = run_diffusers(theirs.float(), (inputs[0].float(), inputs[1], inputs[2].float()))
    return [
        {"what": f"{name}: {label} in bf16 against fp32", "relative_error": relative_error(x, truth), "limit": LIMIT}
        for label, x in found.items()
    ]


def contenders(config: WanConfig, variants: list[str]) -> Callable[[Inputs], dict[str, Callable[[], Tensor]]]:
    """Build every contender on the same weights; the result binds inputs."""
    theirs = build_diffusers(config)
    weights = theirs.state_dict()
    kinds = {
        "ours, compiled": (TORCH_OPS, True),
        "ours, fused kernels": (FUSED_OPS, False),
        "ours, fused kernels, compiled": (FUSED_OPS, True),
    }
    ours = {v: build_ours(config, weights, kinds[v][0], compiled=kinds[v][1]) for v in variants}
    theirs.set_attention_backend("_native_cudnn")
    theirs.compile_repeated_blocks(fullgraph=True)

    def bind(inputs: Inputs) -> dict[str, Callable[[], Tensor]]:
        table: dict[str, Callable[[], Tensor]] = {"diffusers compiled, cuDNN": partial(run_diffusers, theirs, inputs)}
        for variant, model in ours.items():
            text = model.prepare_text(inputs[2], merge_padding=True)
            table[variant] = partial(run_ours, model, choose_stages(model.device), WholeWindow(), inputs, text)
        return table

    return bind


def time_model(name: str, variants: list[str], runs: int, *, profile: bool) -> Findings:
    """Time all contenders on each shape, compared with each other first."""
    bind = contenders(SIZES[name], variants)
    found = Findings()
    for shape in list(SHAPES) if name == "1.3b" else list(SHAPES)[:2]:
        frames, height, width, words = SHAPES[shape]
        table = bind(draw_inputs(SIZES[name], (frames, height, width), words))
        reference = next(iter(table.values()))()
        for label, run in list(table.items())[1:]:
            run(), run()  # from the second time on a small forward is a graph, which is what is timed
            what = f"{name} {shape}: {label} against diffusers, both bf16"
            found.rows.append({"what": what, "relative_error": relative_error(run(), reference), "limit": 0.05})
        found.tables[f"{name} {shape}"] = time_interleaved(table, runs=runs)
        for label, run in table.items() if profile else ():
            found.profiles[f"{name} {shape}: {label}"] = profile_kernels(run)
    return found


@torch.no_grad()
def main() -> None:
    """Check, then time, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/transformer.json"))
    parser.add_argument("--models", nargs="+", default=["1.3b", "14b"], choices=sorted(SIZES))
    parser.add_argument("--variants", nargs="+", default=["ours, compiled", "ours, fused kernels"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="list the kernels of one run of every contender")
    options = parser.parse_args()
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    tables: dict[str, dict[str, Timing]] = {}
    profiles: dict[str, list[dict[str, Any]]] = {}
    for name in options.models:
        rows += check(name, SIZES[name])
        found = time_model(name, options.variants, options.runs, profile=options.profile)
        rows, tables, profiles = rows + found.rows, tables | found.tables, profiles | found.profiles
        gc.collect()
        torch.cuda.empty_cache()
    for row in rows:
        print(row)
    for shape, table in tables.items():
        first = next(iter(table.values())).median_ms
        for contender, timing in table.items():
            print(f"{shape:28s} {contender:32s} {timing.median_ms:9.1f} ms {timing.median_ms / first:6.3f}")
    for label, kernels in profiles.items():
        print(label)
        for row in kernels:
            print(f"  {row['ms']:9.2f} ms {row['calls']:5d}  {row['kernel']}")
    write_report(options.out, "transformer", rows, tables, profiles)
    if any(not row["relative_error"] <= row["limit"] for row in rows):
        sys.exit("wrong result")


if __name__ == "__main__":
    main()
