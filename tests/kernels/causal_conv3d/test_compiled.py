"""What Triton makes of the kernel for Hopper, compiled without a GPU.

`a` is loaded into registers, where a product that still runs may read it. So each step of the loop must wait for all of
its products before the next one loads; see `_settle`.
"""

import re

import pytest

pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from reelray.kernels.causal_conv3d.triton import Tile, _conv_kernel

WAIT = re.compile(r"warp_group_dot_wait.*pendings = (\d+)")
TILES = [
    # input channels, tile
    (192, Tile(rows=8, columns=16, channels=192, depth=64, warps=4, stages=3)),
    (96, Tile(rows=8, columns=16, channels=96, depth=32, warps=4, stages=4)),
    (64, Tile(rows=16, columns=16, channels=64, depth=64, warps=8, stages=3)),
    (96, Tile(rows=8, columns=16, channels=32, depth=32, warps=4, stages=4)),
]


def compile_for_hopper(inner, tile):
    narrow = tile.narrow or tile.wide
    signature = {
        "x_desc": f"tensordesc<bf16[1,1,{tile.rows},{tile.columns},{tile.depth}]>",
        "w_desc": f"tensordesc<bf16[{tile.depth},{tile.wide}]>",
        "narrow_desc": f"tensordesc<bf16[{tile.depth},{narrow}]>",
        **dict.fromkeys(["y_ptr", "bias_ptr", "residual_ptr"], "*bf16"),
        **dict.fromkeys(["T", "H", "W", "OH", "OW", "COUT"], "i32"),
    }
    constants = {
        "CIN": inner,
        "KT": 3,
        "KH": 3,
        "KW": 3,
        "BH": tile.rows,
        "BW": tile.columns,
        "BN": tile.wide,
        "NARROW": tile.narrow,
        "BK": tile.depth,
        "N_TILES": 1,
        "PARITIES": 1,
        "HAS_RESIDUAL": False,
        "RELU": False,
        "SETTLES": True,
    }
    source = ASTSource(_conv_kernel, signature | dict.fromkeys(constants, "constexpr"), constants)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    return compile_kernel(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ttgir"]


def loop_of(ttgir):
    """Lines of the loop over taps."""
    lines = ttgir.splitlines()
    begin = next(n for n, line in enumerate(lines) if "scf.for" in line)
    return lines[begin : next(n for n in range(begin, len(lines)) if "scf.yield" in lines[n])]


@pytest.mark.parametrize(("inner", "tile"), TILES, ids=str)
def test_a_step_waits_for_all_its_products(inner, tile):
    loop = loop_of(compile_for_hopper(inner, tile))
    assert any("ttg.local_load" in line for line in loop)
    assert any("async_tma_copy" in line for line in loop)
    waits = [int(found[1]) for line in loop if (found := WAIT.search(line))]
    last_dot = max(n for n, line in enumerate(loop) if "warp_group_dot " in line)
    assert waits
    assert waits[-1] == 0
    assert any(WAIT.search(line) for line in loop[last_dot:])
