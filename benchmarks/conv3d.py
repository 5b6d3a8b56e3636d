"""The decoder's 3x3x3 convolutions at 480x832 on one GPU: our kernel beside cuDNN's forms, bf16, random data.

python -m benchmarks.conv3d --out benchmarks/results/conv3d.json
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Timing, relative_error, time_interleaved, write_report
from reelray.kernels.causal_conv3d import causal_conv3d, pack_conv

# channels, frames, height, width
SHAPES = ((96, 16, 480, 832), (192, 16, 240, 416), (384, 8, 120, 208), (384, 4, 60, 104))
LIMIT = 6e-3


def fold_taps(x_BTHWC: Tensor, weight_2d: Tensor, bias: Tensor, frames: int) -> Tensor:
    """cuDNN's 2-D convolution with the temporal taps folded into channels, the folding included."""
    folded = torch.cat([x_BTHWC[0, tap : tap + frames] for tap in range(3)], dim=-1).permute(0, 3, 1, 2)
    return F.conv2d(folded, weight_2d, bias, padding=1)


def measure(shape: tuple[int, int, int, int], runs: int) -> tuple[dict[str, Any], dict[str, Timing]]:
    """Check our kernel against fp32, then time it beside cuDNN."""
    channels, frames, height, width = shape
    x = torch.randn(1, frames + 2, height, width, channels, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(channels, channels, 3, 3, 3, device="cuda").mul_((27 * channels) ** -0.5).bfloat16()
    bias = torch.randn(channels, device="cuda", dtype=torch.bfloat16)
    conv = pack_conv(weight, bias)
    corner = x[:, :3, :64, :64].contiguous()
    truth = F.conv3d(corner.permute(0, 4, 1, 2, 3).float(), weight.float(), bias.float(), padding=(0, 1, 1))
    error = relative_error(causal_conv3d(corner, conv).permute(0, 4, 1, 2, 3), truth)
    cl_weight = weight.to(memory_format=torch.channels_last_3d)
    weight_2d = weight.permute(0, 2, 1, 3, 4).reshape(channels, 3 * channels, 3, 3)
    weight_2d = weight_2d.contiguous(memory_format=torch.channels_last)
    x_cl = x.permute(0, 4, 1, 2, 3)
    timings = time_interleaved(
        {
            "cuDNN 3-D, channels-last": partial(F.conv3d, x_cl, cl_weight, bias, padding=(0, 1, 1)),
            "cuDNN 2-D, taps in channels": partial(fold_taps, x, weight_2d, bias, frames),
            "causal_conv3d": partial(causal_conv3d, x, conv),
        },
        runs=runs,
    )
    return {"what": f"{shape} against fp32", "relative_error": error, "limit": LIMIT}, timings


@torch.no_grad()
def main() -> None:
    """Check, time, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/conv3d.json"))
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    rows: list[dict[str, Any]] = []
    tables: dict[str, dict[str, Timing]] = {}
    for shape in SHAPES:
        row, table = measure(shape, options.runs)
        rows.append(row)
        tables[str(shape)] = table
        flop = 2 * 27 * shape[0] ** 2 * shape[1] * shape[2] * shape[3]
        rates = {name: round(flop / timing.median_ms / 1e9) for name, timing in table.items()}
        print(shape, f"error {row['relative_error']:.1e}", rates, "TFLOP/s", flush=True)
    write_report(options.out, "conv3d", rows, tables)
    if any(not row["relative_error"] <= row["limit"] for row in rows):
        sys.exit("wrong result")


if __name__ == "__main__":
    main()
