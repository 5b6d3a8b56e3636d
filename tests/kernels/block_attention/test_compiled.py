"""What Triton makes of the kernel for Hopper, compiled without a GPU: every launch of the table in every form."""

import re

import pytest

pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from reelray.kernels.block_attention.tiles import TABLE, Tile
from reelray.kernels.block_attention.triton import RUNTIME, block_attention_kernel
from tests.support.interpreted import interpreting

pytestmark = pytest.mark.skipif(interpreting(), reason="the interpreter has no compiler")

SHARED_BYTES = 227 * 1024
FLAGS = ("HAS_LENGTHS", "HAS_ORDER", "HAS_SEED", "HAS_TAIL", "MASKED", "PAGED")
FORMS = {
    "whole blocks": (),
    "a short last block": ("HAS_TAIL",),
    "a seed, an order and a short last block": ("HAS_TAIL", "HAS_SEED", "HAS_ORDER"),
    "pages that are not full": ("HAS_LENGTHS", "MASKED", "PAGED"),
    "rows that are no power of two": ("MASKED",),
    "rows that are no power of two and a short last block": ("MASKED", "HAS_TAIL"),
}


def compile_for_hopper(width, tile, flags=(), *, pairs=False):
    odd = 2 if "MASKED" in flags and "HAS_LENGTHS" not in flags else 0
    key_rows = tile.keys // 2 if pairs else tile.keys
    constants = {
        **{name: name in flags for name in FLAGS},
        "SHARED": True,
        "ALIKE": True,
        "WIDTH": width,
        "QUERY_ROWS": tile.queries - odd,
        "KEY_ROWS": key_rows - odd,
        "QUERY_TILE": tile.queries,
        "KEY_TILE": tile.keys,
        "ENTRIES": 2 if pairs else 1,
        "STAGES": tile.stages,
        "DESCRIPTORS": tile.descriptors,
        "SPECIALIZES": False,
        "SETTLES": False,
    }
    described = f"tensordesc<bf16[1,{tile.keys},1,{width}]>" if tile.descriptors else "*bf16"
    types = {
        **dict.fromkeys(["q_ptr", "k_ptr", "v_ptr", "out_ptr"], "*bf16"),
        **dict.fromkeys(["k_desc", "v_desc"], described),
        **dict.fromkeys(["index_ptr", "count_ptr", "length_ptr", "order_ptr"], "*i32"),
        **dict.fromkeys(["seed_ptr", "seed_lse_ptr", "lse_ptr"], "*fp32"),
        "scale": "fp32",
        **dict.fromkeys(constants, "constexpr"),
    }
    names = block_attention_kernel.arg_names
    strides = [name for name in names if name.startswith(("q_", "k_", "v_", "seed_")) and name not in types]
    aligned = [name for name in types if types[name].startswith("*")] + strides
    source = ASTSource(
        block_attention_kernel,
        {name: types.get(name, "i32") for name in names},
        constants,
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned if name not in RUNTIME},
    )
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    return compile_kernel(source, target=GPUTarget("cuda", 90, 32), options=options)


def loops_of(ttgir):
    """Lines of each outermost loop."""
    found, depth = [], 0
    for line in ttgir.splitlines():
        if depth == 0 and "scf.for" in line:
            found.append([])
            depth = len(line) - len(line.lstrip()) + 1
        elif depth and line.startswith(" " * (depth - 1) + "}"):
            depth = 0
        elif depth:
            found[-1].append(line)
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", [(128, 128, 128), (128, 64, 64)])
def test_every_form_compiles_with_its_loads_in_flight(key, form) -> None:
    check_loads(compile_for_hopper(key[0], TABLE[key], FORMS[form]))


@pytest.mark.parametrize("key", TABLE)
def test_every_launch_of_the_table_compiles_with_its_loads_in_flight(key) -> None:
    check_loads(compile_for_hopper(key[0], TABLE[key], ("HAS_TAIL",)))


def test_two_blocks_of_one_tile_compile_with_their_loads_in_flight() -> None:
    tile = Tile(queries=128, keys=128, warps=8, stages=3)
    check_loads(compile_for_hopper(128, tile, ("HAS_TAIL",), pairs=True))


def test_descriptors_compile_and_stay_outside_the_loop() -> None:
    tile = Tile(queries=128, keys=128, warps=8, stages=3, descriptors=True)
    done = compile_for_hopper(128, tile, ("HAS_TAIL",))
    hot = "\n".join(loops_of(done.asm["ttgir"])[0])
    assert hot.count("async_tma_copy_global_to_local") == 2
    assert "tensormap_create" not in done.asm["ttgir"]


def check_loads(done) -> None:
    assert done.metadata.shared <= SHARED_BYTES
    hot = "\n".join(loops_of(done.asm["ttgir"])[0])
    # keys and values are copied ahead in 16-byte pieces, products of both are of the warp group's kind
    assert len(re.findall(r"async_copy_global_to_local .*contiguity = 8", hot)) == 2
    assert len(re.findall(r"= ttng.warp_group_dot ", hot)) == 2
    assert "tt.load" in hot  # of the next index


@pytest.mark.parametrize("form", FORMS)
def test_only_blocks_that_may_be_short_are_masked_in_the_hot_loop(form) -> None:
    hot = "\n".join(loops_of(compile_for_hopper(128, TABLE[128, 128, 64], FORMS[form]).asm["ttgir"])[0])
    masks = re.findall(r"arith.select .*tensor<128x64xf32", hot)
    assert bool(masks) == ("MASKED" in FORMS[form])
