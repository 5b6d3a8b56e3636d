"""What Triton makes of the exchange's kernels for Hopper, compiled without a GPU.

What goes over NVLink must go in sixteen bytes a thread, and ranks that meet must release and acquire across GPUs.
"""

import re

import pytest

pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from reelray.kernels.to_peers.triton import _meet_kernel, _put_heads_kernel, _put_tokens_kernel


def compile_for_hopper(kernel, constants, warps):
    """PTX, with pointers and distances that divide by 16 as they do for heads of 128 channels."""
    signature, hints = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        kinds = {"rooms_ptr": "*i64", "pads_ptr": "*i64", "turn_ptr": "*i32", "stop_ptr": "*i32"}
        kinds |= dict.fromkeys(["first_heads_ptr", "first_places_ptr"], "*i32")
        signature[name] = kinds.get(name, "*bf16" if name.endswith("_ptr") else "i32")
        if name.endswith(("_ptr", "_token", "_stride")):
            hints[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, hints)
    options = {"num_warps": warps}
    return compile_kernel(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


@pytest.mark.parametrize(
    ("kernel", "constants"),
    [
        (_put_heads_kernel, {"RANKS": 4, "WIDTH": 128, "BLOCK": 512}),
        (_put_tokens_kernel, {"RANKS": 4, "WIDTH": 128, "BLOCK": 512}),
    ],
)
def test_puts_are_sixteen_bytes_wide(kernel, constants) -> None:
    ptx = compile_for_hopper(kernel, constants, warps=2)
    assert set(re.findall(r"st\.global[.\w]*", ptx)) == {"st.global.v4.b32"}
    assert "ld.global.v4.b32" in ptx


def test_meeting_releases_and_acquires_across_gpus() -> None:
    ptx = compile_for_hopper(_meet_kernel, {"RANKS": 4, "LANES": 32}, warps=1)
    assert "atom.global.sys.release.exch.b32" in ptx
    assert "atom.global.sys.acquire.add.u32" in ptx
    assert "ld.volatile.global.b32" in ptx
