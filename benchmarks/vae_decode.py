"""Wan VAE decode of 81 frames at 480x832 on one GPU: ours beside diffusers' variants, random weights, bf16.

    python -m benchmarks.vae_decode --out benchmarks/results/vae_decode.json

Ours streams: a few latent frames per call with carried state, as in serving. Correctness first, against diffusers in
float32 on a smaller picture, both in float32 and in bf16.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from benchmarks.harness import Timing, profile_kernels, relative_error, time_interleaved, write_report
from reelray.workers.models.wan.vae import WanVae, WanVaeConfig
from reelray.workers.models.wan.vae.fused_decoder import FusedDecoder

LIMIT = 0.02


def build_pair() -> tuple[AutoencoderKLWan, WanVae]:
    """The full-size VAE twice, same random weights, float32 on the GPU."""
    torch.manual_seed(0)
    theirs = AutoencoderKLWan().cuda().eval().requires_grad_(False)
    for name, parameter in theirs.named_parameters():
        if name.endswith("gamma"):
            parameter.data += 0.1 * torch.randn_like(parameter)
    ours = WanVae(WanVaeConfig()).cuda().eval().requires_grad_(False)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def decode_stream(decoder: FusedDecoder, latents: Tensor, per_call: int) -> Tensor:
    """Decode a clip in calls of `per_call` latent frames, the first frame alone."""
    video, slots = decoder(latents[:, :, :1], None)
    parts = [video]
    for start in range(1, latents.shape[2], per_call):
        video, slots = decoder(latents[:, :, start : start + per_call], slots)
        parts.append(video)
    return torch.cat(parts, dim=2)


def check(theirs: AutoencoderKLWan, ours: WanVae) -> list[dict[str, Any]]:
    """Compare with diffusers in float32 (never TensorFloat-32) and measure what bf16 costs each side."""
    torch.backends.cudnn.allow_tf32 = False
    latents = torch.randn(1, 16, 5, 30, 52, device="cuda")
    with torch.no_grad():
        exact = theirs.decode(latents).sample
        streamed = decode_stream(FusedDecoder(ours.post_quant_conv, ours.decoder), latents, 2)
        half = WanVae(WanVaeConfig()).cuda().eval().requires_grad_(False)
        half.load_state_dict(ours.state_dict())
        half = half.bfloat16()
        fused = decode_stream(FusedDecoder(half.post_quant_conv, half.decoder), latents.bfloat16(), 2)
        other = theirs.bfloat16().decode(latents.bfloat16()).sample
        theirs.float().load_state_dict(ours.state_dict())
    return [
        {"what": "ours fp32 against diffusers fp32", "relative_error": relative_error(streamed, exact), "limit": 1e-3},
        {"what": "ours bf16 against diffusers fp32", "relative_error": relative_error(fused, exact), "limit": LIMIT},
        {"what": "diffusers bf16 against its fp32", "relative_error": relative_error(other, exact), "limit": None},
    ]


def contenders(theirs: AutoencoderKLWan, ours: WanVae, latents: Tensor) -> dict[str, Callable[[], Any]]:
    """Every timed variant, all bf16."""
    plain = theirs.bfloat16()
    last: AutoencoderKLWan = AutoencoderKLWan().cuda().bfloat16().eval().requires_grad_(False)
    last.load_state_dict(plain.state_dict())
    put_channels_last(last)
    compiled: AutoencoderKLWan = AutoencoderKLWan().cuda().bfloat16().eval().requires_grad_(False)
    compiled.load_state_dict(plain.state_dict())
    put_channels_last(compiled)
    compiled.decoder = torch.compile(compiled.decoder, dynamic=False)
    ours = ours.bfloat16()
    decoder = FusedDecoder(ours.post_quant_conv, ours.decoder)
    table: dict[str, Callable[[], Any]] = {
        "diffusers": lambda: plain.decode(latents).sample,
        "diffusers channels-last": lambda: last.decode(latents).sample,
        "diffusers channels-last compiled": lambda: compiled.decode(latents).sample,
        "diffusers channels-last compiled, untuned": untuned(lambda: compiled.decode(latents).sample),
    }
    for per_call in (1, 2, 4, 5, 10):
        table[f"ours, {per_call} latent frames per call"] = partial(decode_stream, decoder, latents, per_call)
    return table


def untuned(run: Callable[[], Any]) -> Callable[[], Any]:
    """The same by the algorithms that cuDNN takes without trying them, which is what torch does unless it is asked."""

    def run_untuned() -> Any:
        torch.backends.cudnn.benchmark = False
        try:
            return run()
        finally:
            torch.backends.cudnn.benchmark = True

    return run_untuned


def put_channels_last(module: torch.nn.Module) -> None:
    """Lay out the kernels of convolutions; the module's own `to` refuses one that has both kinds."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.to(memory_format=formats[parameter.ndim])


@torch.no_grad()
def main() -> None:
    """Check, then time, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/vae_decode.json"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="contenders to time, such as 'diffusers channels-last compiled'"
    )
    parser.add_argument(
        "--profile", action="store_true", help="list the kernels of one run with 4 latent frames a call"
    )
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.recompile_limit = 64  # noqa: SLF001  diffusers' feature cache recompiles per first and later frames
    theirs, ours = build_pair()
    rows = check(theirs, ours)
    for row in rows:
        print(row)
    if any(row["limit"] and not row["relative_error"] <= row["limit"] for row in rows):
        sys.exit("wrong result; nothing is timed")
    latents = torch.randn(1, 16, 21, 60, 104, device="cuda", dtype=torch.bfloat16)
    timings: dict[str, dict[str, Timing]] = {}
    table = contenders(theirs, ours, latents)
    label = "ours, 4 latent frames per call"
    if unknown := set(options.only or ()) - set(table):
        sys.exit(f"unknown contender {sorted(unknown)}; there are {list(table)}")
    chosen = {name: call for name, call in table.items() if options.only is None or name in options.only}
    timings["480x832x81"] = time_interleaved(chosen, runs=options.runs)
    profiles = {label: profile_kernels(table[label])} if options.profile else {}
    rows.append({"what": "peak bytes", "value": torch.cuda.max_memory_allocated()})
    for name, timing in timings["480x832x81"].items():
        print(f"{name:40s} {timing.median_ms:9.1f} ms")
    for row in profiles.get(label, ()):
        print(f"{row['ms']:9.2f} ms {row['calls']:5d}  {row['kernel']}")
    write_report(options.out, "vae_decode", rows, timings, profiles)


if __name__ == "__main__":
    main()
