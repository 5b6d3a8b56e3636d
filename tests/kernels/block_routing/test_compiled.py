"""What Triton makes of the routing kernels for Hopper, compiled without a GPU: types, tensor cores, registers."""

import re

import pytest

pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from reelray.kernels.block_routing.antidiagonals import _average_kernel, _multiply_kernel
from reelray.kernels.block_routing.compensation import _compensate_kernel, _mark_kernel
from reelray.kernels.block_routing.pooling import _pool_kernel
from reelray.kernels.block_routing.scores import _score_kernel
from reelray.kernels.block_routing.selection import _select_kernel

BYTES = {"keep_ptr": "*u8", "drop_ptr": "*u8", "mark_ptr": "*u8"}
COUNTS = ("length_ptr", "q_count_ptr", "k_count_ptr", "count_ptr", "index_ptr", "listed_ptr")
POOL = {
    "HAS_LENGTH": True,
    "IS_SUM": False,
    "HAS_SIMILARITY": True,
    "PARTS": 4,
    "ROOM": 16,
    "WIDTH": 128,
    "PART_TILE": 4,
    "ROOM_TILE": 16,
    "BLOCK": 128,
}
SCORE = {
    "HAS_Q_COUNT": True,
    "HAS_K_COUNT": True,
    "PARTS": 4,
    "KEY_PARTS": 4,
    "PART_TILE": 4,
    "KEY_PART_TILE": 4,
    "QUERY_TILE": 32,
    "KEY_TILE": 16,
    "WIDTH": 128,
    "BLOCK": 128,
    "PRECISION": "split",
    "IS_BFLOAT": True,
}
SELECT = {
    "HAS_KEEP": True,
    "HAS_DROP": True,
    "HAS_COUNT": False,
    "HAS_MASS": True,
    "HAS_MASSES": False,
    "IS_EXACT": False,
    "BLOCK": 2048,
}
MULTIPLY = {
    "STRIDE": 16,
    "PER_BLOCK": 4,
    "PER_TILE": 4,
    "BLOCK_TILE": 32,
    "WIDTH": 128,
    "BLOCK": 128,
    "ROWS": 128,
}
COMPENSATE = {"QUERY_ROWS": 64, "TILES": 1, "WIDTH": 128, "BLOCK": 128, "ROWS": 64, "KEYS": 64}
# A launch makes constants of numbers that are 1.
ONES = (
    "heads",
    "queries",
    "blocks",
    "keys",
    "tokens",
    "least",
    "capacity",
    "groups",
    "tiles_each",
    "keep_block",
    "drop_block",
)


def compile_for_hopper(kernel, constants, *, warps, halves=()):
    """Code for Hopper, with pointers and distances that divide by 16 as they do for heads of 128 channels."""
    signature, hints = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        kind = "*fp32" if name.endswith("_ptr") else "i32"
        kind = "*i32" if name in COUNTS else BYTES.get(name, kind)
        signature[name] = "*bf16" if name in halves else "fp32" if name in {"scale", "mass"} else kind
        if name.endswith(("_ptr", "_token", "_head", "_batch")):
            hints[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, hints)
    return compile_kernel(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})


def loads_of(ptx):
    return set(re.findall(r"ld\.global[.\w:]*", ptx))


def test_tokens_are_read_sixteen_bytes_at_a_time():
    ptx = compile_for_hopper(_pool_kernel, POOL, warps=4, halves=("x_ptr",)).asm["ptx"]
    tokens = re.findall(r"ld\.global\.v4\.b32", ptx)
    assert len(tokens) == 64 * 128 * 2 // 16 // 128
    assert loads_of(ptx) == {"ld.global.v4.b32", "ld.global.b32"}  # the other is the length


@pytest.mark.parametrize("parts", [1, 4])
def test_scores_are_three_products_of_halves_summed_up_in_float32(parts):
    tiles = {"PARTS": parts, "KEY_PARTS": parts, "PART_TILE": parts, "KEY_PART_TILE": parts}
    tiles |= {"QUERY_TILE": 128 // parts, "KEY_TILE": 64 // parts}
    ptx = compile_for_hopper(_score_kernel, SCORE | tiles, warps=8).asm["ptx"]
    products = re.findall(r"wgmma\.mma_async[.\w]*", ptx)
    assert set(products) == {"wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16"}
    assert len(products) == 3 * 128 // 16
    assert not re.search(r"(ld|st)\.local", ptx)


@pytest.mark.parametrize("rows", [64, 128])
def test_compensation_runs_on_tensor_cores_and_copies_ahead(rows):
    constants = COMPENSATE | {"QUERY_ROWS": rows, "ROWS": rows}
    code = compile_for_hopper(_compensate_kernel, constants, warps=rows // 16, halves=("q_ptr", "k_ptr", "v_ptr"))
    ptx = code.asm["ptx"]
    assert "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16" in ptx
    assert "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16" in ptx
    assert "cp.async.cg.shared.global" in ptx


def test_groups_are_copied_from_where_they_lie_to_tensor_cores():
    ptx = compile_for_hopper(_multiply_kernel, MULTIPLY, warps=8, halves=("q_ptr", "k_ptr")).asm["ptx"]
    assert "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16" in ptx
    assert not loads_of(ptx)  # all by copies ahead
    assert not re.search(r"(ld|st)\.local", ptx)


@pytest.mark.parametrize(
    ("kernel", "constants"),
    [
        (_pool_kernel, POOL),
        (_score_kernel, SCORE),
        (_score_kernel, SCORE | {"PRECISION": "half"}),
        (_select_kernel, SELECT),
        (_select_kernel, SELECT | {"HAS_MASS": False, "IS_EXACT": True, "HAS_KEEP": False, "HAS_DROP": False}),
        (_select_kernel, SELECT | {"HAS_COUNT": True, "HAS_MASSES": True}),
        (_compensate_kernel, COMPENSATE),
        (_mark_kernel, {"BLOCK": 256}),
        (_multiply_kernel, MULTIPLY),
        (_average_kernel, {"PER_BLOCK": 4, "BLOCK": 2048}),
    ],
)
@pytest.mark.parametrize("ones", [True, False])
def test_every_form_compiles(kernel, constants, ones):
    halves = () if kernel is _score_kernel else ("x_ptr", "q_ptr", "k_ptr", "v_ptr")
    constants = constants | {name: 1 for name in ONES if ones and name in kernel.arg_names}
    code = compile_for_hopper(kernel, constants, warps=4, halves=halves)
    assert "cubin" in code.asm
