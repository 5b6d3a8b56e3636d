"""One Wan forward: ours against diffusers, compiled, random weights, interleaved on one GPU.

    python benchmarks/wan_forward.py --size 1.3b --latents 21x60x104 --variants diffusers,torch,fused --json out.json

`torch` lets inductor fuse the element-wise work, `fused` uses the Triton kernels and the GELU epilogue. Prints the
median of each and its ratio to the first variant, and the relative difference of the outputs.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from reelray.kernels.attention.api import CUDA_BACKENDS
from reelray.workers.models.wan.block_ops import FUSED_OPS, TORCH_OPS, BlockOps
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.key_map import checkpoint_views
from reelray.workers.models.wan.transformer import WanTransformer
from reelray.workers.models.wan.weights import empty_transformer

SIZES = {
    "1.3b": WanConfig(num_attention_heads=12, ffn_dim=8960, num_layers=30),
    "14b": WanConfig(),
    "tiny": WanConfig(num_attention_heads=2, attention_head_dim=64, ffn_dim=256, num_layers=2, text_dim=64),
}
Forward = Callable[[], Tensor]


def build_diffusers(config: WanConfig, device: str, dtype: torch.dtype) -> torch.nn.Module:
    """Build diffusers' model with seeded random weights of realistic scale."""
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        model = WanTransformer3DModel(**{k: v for k, v in config.to_diffusers().items() if k != "_class_name"})
    kept = empty_transformer(config, "meta", dtype)
    dtypes = {name: view.dtype for name, view in checkpoint_views(kept).items()}
    for name, parameter in list(model.named_parameters()):
        owner = model.get_submodule(name.rpartition(".")[0])
        data = torch.empty(parameter.shape, device=device, dtype=dtypes[name])
        owner.register_parameter(name.rpartition(".")[2], torch.nn.Parameter(fill(data, name), requires_grad=False))
    model.rope = type(model.rope)(config.attention_head_dim, config.patch_size, config.rope_max_seq_len).to(device)
    model.eval()
    return cast("torch.nn.Module", model)


def fill(data: Tensor, name: str) -> Tensor:
    """Draw a weight: gains near one, matrices by fan-in."""
    if data.ndim == 1 and "norm" in name and name.endswith("weight"):
        return data.normal_(1, 0.05)
    return data.normal_(0, 0.02 if data.ndim == 1 else data[0].numel() ** -0.5)


def build_ours(config: WanConfig, weights: dict[str, Tensor], device: str, dtype: torch.dtype) -> WanTransformer:
    """Build our model with the same weights."""
    model = empty_transformer(config, device, dtype)
    for name, view in checkpoint_views(model).items():
        view.copy_(weights[name])
    model.eval().requires_grad_(requires_grad=False)
    return model


def median_ms(forwards: dict[str, Forward], rounds: int, device: str) -> dict[str, float]:
    """Time variants in turn, so that clocks and power drift hit all alike."""
    times: dict[str, list[float]] = {name: [] for name in forwards}
    for _ in range(rounds):
        for name, forward in forwards.items():
            times[name].append(time_once(forward, device))
    return {name: statistics.median(values) for name, values in times.items()}


def time_once(forward: Forward, device: str) -> float:
    """Milliseconds of one call."""
    if device == "cpu":
        start = perf_counter()
        forward()
        return (perf_counter() - start) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    forward()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def make_forwards(args: argparse.Namespace) -> dict[str, Forward]:
    """Build every variant on the same weights and inputs."""
    config, device, dtype = SIZES[args.size], args.device, torch.bfloat16
    frames, height, width = map(int, args.latents.split("x"))
    latents = torch.randn(1, 16, frames, height, width, device=device, dtype=dtype)
    text = torch.randn(1, 512, config.text_dim, device=device, dtype=dtype)
    text[:, 60:] = 0
    timestep = torch.full((1,), 500.0, device=device)
    theirs = build_diffusers(config, device, dtype)
    weights = theirs.state_dict()

    def wrap_theirs() -> Forward:
        for block in theirs.blocks:  # type: ignore[union-attr]
            block.compile(backend=args.backend)

        def forward() -> Tensor:
            with sdpa_kernel(list(CUDA_BACKENDS), set_priority=True):
                prediction: Tensor = theirs(latents, timestep, text, return_dict=False)[0]
            return prediction

        return forward

    def wrap_ours(ops: BlockOps) -> Forward:
        ours = build_ours(config, weights, device, dtype)
        ours.use_ops(ops)
        ours.compile_blocks(dynamic=False, backend=args.backend)
        context = ours.prepare_text(text, merge_padding=args.merge_padding)
        return lambda: ours(latents, timestep, context)

    makers: dict[str, Callable[[], Forward]] = {
        "diffusers": wrap_theirs,
        "torch": lambda: wrap_ours(TORCH_OPS),
        "fused": lambda: wrap_ours(FUSED_OPS),
    }
    return {name: makers[name]() for name in args.variants.split(",")}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1.3b")
    parser.add_argument("--latents", default="21x60x104", help="latent frames x height x width")
    parser.add_argument("--variants", default="diffusers,torch,fused")
    parser.add_argument("--merge-padding", action="store_true", help="one token for all padding slots of the prompt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    """Run and print."""
    args = parse_arguments()
    torch.manual_seed(0)
    forwards = make_forwards(args)
    outputs = {name: forward().float() for name, forward in forwards.items()}
    for forward in forwards.values():
        forward()
    medians = median_ms(forwards, args.rounds, args.device)
    first = next(iter(medians))
    rows = {
        name: {
            "ms": round(ms, 2),
            "ratio": round(ms / medians[first], 4),
            "difference": float((outputs[name] - outputs[first]).norm() / outputs[first].norm()),
        }
        for name, ms in medians.items()
    }
    report = {"size": args.size, "latents": args.latents, "torch": torch.__version__, "variants": rows}
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
