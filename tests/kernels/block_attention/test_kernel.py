"""The Triton kernel against the formula: through the interpreter on a CPU, and on a GPU."""

import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from reelray.kernels.block_attention.reference import attend_blocks_reference
from reelray.kernels.block_attention.tiles import Tile
from tests.support.interpreted import interpreted_only
from tests.support.listed_attention import cut_lists, draw_lists, draw_qkv

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
LOG_TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3}
DEVICE = "cpu"
HALVES = [torch.float16, torch.bfloat16]
TILE = Tile(queries=32, keys=32, warps=4, stages=2)

# batch, queries, keys, heads, width, query rows, key rows, tile
CASES = {
    "whole": (1, 64, 96, 2, 64, 32, 32, TILE),
    "odd lengths": (2, 77, 75, 2, 64, 32, 32, TILE),
    "wide heads": (1, 40, 70, 1, 128, 32, 32, TILE),
    "rows are no power of two": (2, 67, 95, 2, 64, 30, 31, TILE),
    "exact tilings": (1, 126, 189, 1, 64, 63, 63, replace(TILE, queries=64, keys=64)),
    "large exact tilings": (1, 252, 252, 1, 64, 126, 126, replace(TILE, queries=128, keys=128)),
    "many tiles of one block": (1, 96, 160, 1, 64, 96, 96, TILE),
    "many tiles of one odd block": (1, 130, 130, 1, 64, 48, 49, TILE),
    "one short block": (1, 3, 5, 2, 64, 32, 32, TILE),
    "two blocks of one tile": (2, 64, 160, 2, 64, 32, 32, replace(TILE, keys=64)),
    "two blocks of one tile, odd": (1, 40, 150, 2, 64, 32, 32, replace(TILE, keys=64)),
    "two blocks, one of them short": (1, 40, 5, 1, 64, 32, 32, replace(TILE, keys=64)),
    "descriptors": (2, 64, 96, 2, 64, 32, 32, replace(TILE, descriptors=True)),
    "descriptors and an odd end": (1, 50, 150, 2, 64, 32, 64, replace(TILE, descriptors=True)),
}


def attend(q, k, v, lists, *, tile=TILE, seed=None, splits=1, paged=False, device=None):
    """The kernel on `DEVICE`; results come back to where the inputs are."""
    from reelray.kernels.block_attention.launch import launch

    back, device = q.device, device or DEVICE
    lists = move(lists, device)
    parts = (lists.index_BNQC, lists.count_BNQ, lists.length_G, lists.order_BNQ)
    rows = (lists.query_rows, lists.key_rows)
    # a copy of keys and values keeps their strides
    moved = (q.to(device), *(part if device == "cpu" else part.to(device) for part in (k, v)))
    seed = seed and (seed[0].to(device), seed[1].to(device))
    mixed, lse = launch(moved, parts, seed, tile, rows=rows, paged=paged, splits=splits)
    return mixed.to(back), lse.to(back)


def check(found, wanted, dtype=torch.float32):
    (mixed, lse), (expected, expected_lse) = found, wanted
    assert mixed.dtype == dtype
    assert mixed.is_contiguous()
    assert not mixed.isnan().any()
    assert (mixed.double() - expected).abs().max() <= TOLERANCE[dtype]
    empty = expected_lse == -torch.inf
    assert torch.equal(lse == -torch.inf, empty)
    assert not mixed[empty].any()
    assert (lse - expected_lse)[~empty].abs().le(LOG_TOLERANCE[dtype]).all()


def check_case(name, density, dtype, device="cpu", shared=(False, False)) -> None:
    batch, queries, keys, heads, width, query_rows, key_rows, tile = CASES[name]
    q, k, v = (part.to(device) for part in draw_qkv(batch, queries, keys, heads, width, dtype=dtype))
    rows = (1 if shared[0] else batch, 1 if shared[1] else heads)
    lists = move(draw_lists(*rows, queries, keys, query_rows=query_rows, key_rows=key_rows, density=density), device)
    found = attend(q, k, v, lists, tile=tile, device=device)
    check(found, attend_blocks_reference(q, k, v, lists, precision=torch.float64), dtype)


def move(lists, device):
    parts = ("index_BNQC", "count_BNQ", "length_G", "order_BNQ")
    moved = {name: getattr(lists, name) for name in parts}
    return replace(lists, **{name: None if part is None else part.to(device) for name, part in moved.items()})


@interpreted_only
@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernel_equals_the_formula(name, density) -> None:
    check_case(name, density, torch.float32)


@interpreted_only
@pytest.mark.parametrize("keys", [32, 64])
def test_interpreted_keys_and_values_may_lie_differently(keys) -> None:
    q, k, v = draw_qkv(2, 40, 70, 2, 64)
    lists = draw_lists(2, 2, 40, 70, query_rows=32, key_rows=32, density=1.0)
    wanted = attend_blocks_reference(q, k, v, lists, precision=torch.float64)
    for parts in ((k.contiguous(), v), (k, v.transpose(1, 2).contiguous().transpose(1, 2))):
        check(attend(q, *parts, lists, tile=replace(TILE, keys=keys)), wanted)


@interpreted_only
def test_interpreted_kernel_equals_the_formula_in_half_precision() -> None:
    check_case("odd lengths", 0.5, torch.float16)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_cuda_kernel_equals_the_formula(name, density, dtype) -> None:
    check_case(name, density, dtype, "cuda")


@interpreted_only
@pytest.mark.parametrize("shared", [(True, False), (False, True), (True, True)])
def test_interpreted_lists_may_be_shared(shared) -> None:
    check_case("odd lengths", 0.5, torch.float32, shared=shared)


@interpreted_only
def test_interpreted_empty_lists_give_nothing() -> None:
    q, k, v = draw_qkv(1, 40, 64, 1, 64)
    mixed, lse = attend(q, k, v, draw_lists(1, 1, 40, 64, query_rows=32, key_rows=32, density=0.0))
    assert not mixed.any()
    assert (lse == -torch.inf).all()


@interpreted_only
@pytest.mark.parametrize("keys", [32, 64])
@pytest.mark.parametrize("seed_dtype", [torch.float32, torch.float16])
def test_interpreted_seed_adds_the_keys_that_it_stands_for(keys, seed_dtype) -> None:
    dtype = torch.float32 if seed_dtype == torch.float32 else torch.float16
    q, k, v = draw_qkv(2, 50, 150, 2, 64, dtype=dtype)
    lists = draw_lists(2, 2, 50, 150, query_rows=32, key_rows=32, density=0.6)
    parts = [cut_lists(lists, 5, first=first) for first in (True, False)]
    mixed, lse = attend(q, k, v, parts[0])
    found = attend(q, k, v, parts[1], tile=replace(TILE, keys=keys), seed=(mixed.to(seed_dtype), lse))
    check(found, attend_blocks_reference(q, k, v, lists, precision=torch.float64), dtype)


@interpreted_only
@pytest.mark.parametrize("splits", [1, 3])
def test_interpreted_seed_is_kept_where_nothing_is_listed_and_ignored_at_minus_infinity(splits) -> None:
    q, k, v = draw_qkv(1, 40, 64, 2, 64)
    mixed, lse = torch.randn(1, 40, 2, 64), torch.randn(1, 40, 2) * 9
    lse[:, ::3], mixed[:, ::3] = -torch.inf, torch.nan
    empty = draw_lists(1, 1, 40, 64, query_rows=32, key_rows=32, density=0.0)
    found = attend(q, k, v, empty, seed=(mixed, lse), splits=splits)
    assert torch.equal(found[0], mixed.nan_to_num(0.0))
    assert torch.equal(found[1], lse)
    full = draw_lists(1, 1, 40, 64, query_rows=32, key_rows=32, density=1.0)
    none = (torch.full_like(mixed, torch.nan), torch.full_like(lse, -torch.inf))
    wanted = attend_blocks_reference(q, k, v, full, precision=torch.float64)
    check(attend(q, k, v, full, seed=none, splits=splits), wanted)


@interpreted_only
@pytest.mark.parametrize("rows", [32, 29])
def test_interpreted_lengths_end_blocks_early_and_nan_behind_them_stays_there(rows) -> None:
    keys = 5 * rows - 3
    q, k, v = draw_qkv(2, 40, keys, 2, 64)
    length_G = torch.tensor([rows, 1, 0, 17, 9], dtype=torch.int32)
    lists = draw_lists(2, 2, 40, keys, query_rows=32, key_rows=rows, density=0.6, length_G=length_G)
    wanted = attend_blocks_reference(q, k, v, lists, precision=torch.float64)
    row = torch.arange(keys)
    behind = row % rows >= length_G[row // rows]
    k[:, behind], v[:, behind] = torch.nan, torch.nan
    check(attend(q, k, v, lists), wanted)


@interpreted_only
@pytest.mark.parametrize("descriptors", [False, True])
@pytest.mark.parametrize("has_lengths", [False, True])
def test_interpreted_pages_are_read_where_they_lie_and_freed_ones_are_not(descriptors, has_lengths) -> None:
    pages_PL2RND = torch.randn(7, 2, 2, 32, 2, 64)
    k, v = pages_PL2RND[:, 1].unbind(1)
    q = torch.randn(3, 40, 2, 64)
    length_G = torch.full((7,), 32, dtype=torch.int32)
    length_G[4] = 11
    lists = draw_lists(3, 1, 40, 7 * 32, query_rows=32, key_rows=32, density=0.4)
    lists.index_BNQC.masked_fill_(lists.index_BNQC == 2, 3)  # page 2 is in no list
    lists = replace(lists, length_G=length_G if has_lengths else None)
    k[2], v[2] = torch.nan, torch.nan
    if has_lengths:
        k[4, 11:], v[4, 11:] = torch.nan, torch.nan
    flat = [part.flatten(0, 1)[None] for part in (k, v)]
    wanted = attend_blocks_reference(q, *flat, lists, precision=torch.float64)
    check(attend(q, k, v, lists, tile=replace(TILE, descriptors=descriptors), paged=True), wanted)
    check(attend(q, *flat, lists, tile=replace(TILE, descriptors=descriptors)), wanted)


@interpreted_only
@pytest.mark.parametrize("splits", [1, 2])
def test_interpreted_order_changes_nothing_but_the_order(splits) -> None:
    q, k, v = draw_qkv(1, 100, 70, 2, 64)
    lists = draw_lists(1, 2, 100, 70, query_rows=32, key_rows=32, density=0.5)
    ordered = lists.longest_first()
    assert not torch.equal(ordered.order_BNQ.sort(-1).values, ordered.order_BNQ)
    found, wanted = attend(q, k, v, ordered, splits=splits), attend(q, k, v, lists, splits=splits)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


@interpreted_only
@pytest.mark.parametrize(("splits", "keys"), [(2, 32), (3, 64), (8, 32)])
def test_interpreted_splits_give_what_one_program_gives(splits, keys) -> None:
    q, k, v = draw_qkv(1, 50, 150, 2, 64)
    lists = draw_lists(1, 2, 50, 150, query_rows=32, key_rows=32, density=0.5)
    lists.count_BNQ[0, 0, 0] = 0
    wanted = attend_blocks_reference(q, k, v, lists, precision=torch.float64)
    check(attend(q, k, v, lists, splits=splits, tile=replace(TILE, keys=keys)), wanted)


WRONG = [
    ([0, 5, 0], 2),
    ([-1, 0, 0], 1),
    ([0, 1, 2], 3),
    ([0, 1, 2], -1),
    ([2**31 - 1, 0, 0], 1),
    ([0, -(2**31), 0], 2),
]


@interpreted_only
@pytest.mark.parametrize(("tokens", "keys", "splits"), [(150, 32, 1), (150, 64, 2)])
@pytest.mark.parametrize(("index", "count"), WRONG)
def test_interpreted_what_is_out_of_range_makes_its_block_nan_and_no_other(index, count, tokens, keys, splits) -> None:
    q, k, v = draw_qkv(1, 64, tokens, 2, 64)
    tile = replace(TILE, keys=keys)
    lists = draw_lists(1, 2, 64, tokens, query_rows=32, key_rows=32, density=1.0)
    short = replace(lists, index_BNQC=lists.index_BNQC[..., :3].clone(), count_BNQ=torch.full_like(lists.count_BNQ, 2))
    wanted = attend(q, k, v, short, tile=tile, splits=splits)
    short.index_BNQC[0, 1, 0], short.count_BNQ[0, 1, 0] = torch.tensor(index), count
    mixed, lse = attend(q, k, v, short, tile=tile, splits=splits)
    assert mixed[0, :32, 1].isnan().all()
    assert lse[0, :32, 1].isnan().all()
    for part, expected in ((mixed, wanted[0]), (lse, wanted[1])):
        assert torch.equal(part[0, :, 0], expected[0, :, 0])
        assert torch.equal(part[0, 32:], expected[0, 32:])


@interpreted_only
@pytest.mark.parametrize("tokens", [20, 70])
def test_interpreted_short_block_before_the_end_of_a_list_is_refused_as_nan(tokens) -> None:
    q, k, v = draw_qkv(1, 32, tokens, 1, 64)
    last = tokens // 32
    index = torch.tensor([[[[last, 0, last, 0]]]], dtype=torch.int32)
    lists = draw_lists(1, 1, 32, tokens, query_rows=32, key_rows=32, density=1.0)
    lists = replace(lists, index_BNQC=index, count_BNQ=torch.full_like(lists.count_BNQ, 2))
    mixed, lse = attend(q, k, v, lists)
    assert mixed.isnan().all()
    assert lse.isnan().all()


@interpreted_only
def test_interpreted_lengths_that_a_block_cannot_have_are_nan() -> None:
    q, k, v = draw_qkv(1, 32, 96, 1, 64)
    for length in (33, -1):
        length_G = torch.tensor([32, length, 32], dtype=torch.int32)
        lists = draw_lists(1, 1, 32, 96, query_rows=32, key_rows=32, density=1.0, length_G=length_G)
        assert attend(q, k, v, lists)[0].isnan().all()
        assert attend_blocks_reference(q, k, v, lists)[0].isnan().all()


@interpreted_only
def test_interpreted_op_chooses_its_launch_and_is_one_for_compiled_regions() -> None:
    from reelray.kernels.block_attention.launch import attend_listed

    q, k, v = draw_qkv(1, 70, 130, 1, 64)
    lists = draw_lists(1, 1, 70, 130, density=0.7).longest_first()
    inputs = (q, k, v, lists.index_BNQC, lists.count_BNQ, None, lists.order_BNQ, None, None)
    wanted = attend_blocks_reference(q, k, v, lists, precision=torch.float64)
    for splits in (0, 2):
        options = {"query_rows": 64, "key_rows": 64, "paged": False, "longest": 2, "splits": splits}
        check(attend_listed(*inputs, **options), wanted)
        compiled = torch.compile(partial(attend_listed, **options), fullgraph=True, backend="aot_eager")
        check(compiled(*inputs), wanted)
        torch.library.opcheck(attend_listed, inputs, options, test_utils=("test_schema", "test_faketensor"))


ON_CUDA = [
    (test_interpreted_empty_lists_give_nothing, {}),
    (test_interpreted_keys_and_values_may_lie_differently, {"keys": 32}),
    (test_interpreted_seed_adds_the_keys_that_it_stands_for, {"keys": 64, "seed_dtype": torch.float32}),
    (test_interpreted_seed_is_kept_where_nothing_is_listed_and_ignored_at_minus_infinity, {"splits": 3}),
    (test_interpreted_lengths_end_blocks_early_and_nan_behind_them_stays_there, {"rows": 29}),
    (
        test_interpreted_pages_are_read_where_they_lie_and_freed_ones_are_not,
        {"descriptors": True, "has_lengths": False},
    ),
    (
        test_interpreted_pages_are_read_where_they_lie_and_freed_ones_are_not,
        {"descriptors": False, "has_lengths": True},
    ),
    (test_interpreted_order_changes_nothing_but_the_order, {"splits": 2}),
    (test_interpreted_splits_give_what_one_program_gives, {"splits": 8, "keys": 32}),
    (test_interpreted_short_block_before_the_end_of_a_list_is_refused_as_nan, {"tokens": 70}),
    (test_interpreted_lengths_that_a_block_cannot_have_are_nan, {}),
    *(
        (
            test_interpreted_what_is_out_of_range_makes_its_block_nan_and_no_other,
            {"index": index, "count": count, "tokens": 150, "keys": keys, "splits": 1},
        )
        for index, count in WRONG
        for keys in (32, 64)
    ),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("case", "arguments"), ON_CUDA, ids=lambda part: getattr(part, "__name__", None))
def test_cuda_kernel_does_what_the_interpreter_does(monkeypatch, case, arguments) -> None:
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "DEVICE", "cuda")
    monkeypatch.setitem(TOLERANCE, torch.float32, 1e-5)  # exp2 is approximate there
    monkeypatch.setitem(LOG_TOLERANCE, torch.float32, 1e-5)
    case(**arguments)


@pytest.mark.gpu
def test_cuda_compiled_region_has_no_breaks() -> None:
    from reelray.kernels.block_attention.api import attend_blocks

    q, k, v = (part.cuda() for part in draw_qkv(1, 300, 500, 2, 64, dtype=torch.bfloat16))
    lists = move(draw_lists(1, 2, 300, 500, query_rows=128, key_rows=64, density=0.5), "cuda")
    found = torch.compile(attend_blocks, fullgraph=True)(q, k, v, lists)
    check(found, attend_blocks_reference(q, k, v, lists, precision=torch.float64), torch.bfloat16)
