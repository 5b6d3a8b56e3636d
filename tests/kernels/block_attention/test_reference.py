"""Attention over block lists in torch against dense attention with a mask of tokens, and what is refused."""

from dataclasses import replace

import pytest
import torch

from reelray.kernels.block_attention import api
from reelray.kernels.block_attention.api import attend_blocks, attend_pages
from reelray.kernels.block_attention.lists import BlockLists
from reelray.kernels.block_attention.reference import attend_blocks_reference
from tests.support.listed_attention import allowed_tokens, attend_dense, cut_lists, draw_lists, draw_qkv

# batch, queries, keys, heads, width, query rows, key rows
SIZES = [
    (1, 128, 128, 1, 64, 64, 64),
    (2, 200, 333, 3, 16, 64, 32),
    (2, 131, 190, 2, 64, 60, 63),
    (1, 5, 3, 2, 8, 126, 126),
    (1, 300, 90, 2, 12, 128, 7),
]


def close(found, wanted, tolerance=2e-6):
    mixed, lse = found
    expected, expected_lse = wanted
    assert (mixed.double() - expected).abs().max() <= tolerance
    empty = expected_lse == -torch.inf
    assert torch.equal(lse == -torch.inf, empty)
    assert (lse.double() - expected_lse)[~empty].abs().le(tolerance).all()
    assert not mixed[empty].any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("density", [0.15, 0.5, 1.0])
@pytest.mark.parametrize("shared", [(False, False), (True, False), (False, True), (True, True)])
def test_equals_dense_attention_with_a_mask(size, density, shared) -> None:
    batch, queries, keys, heads, width, query_rows, key_rows = size
    q, k, v = draw_qkv(batch, queries, keys, heads, width)
    rows = (1 if shared[0] else batch, 1 if shared[1] else heads)
    lists = draw_lists(*rows, queries, keys, query_rows=query_rows, key_rows=key_rows, density=density)
    found = attend_blocks(q, k, v, lists)
    assert found[0].is_contiguous()
    wanted = attend_dense(q, k, v, allowed_tokens(lists, queries, keys))
    close(found, wanted)
    exact = attend_blocks_reference(q, k, v, lists, precision=torch.float64)
    assert exact[0].dtype == exact[1].dtype == torch.float64
    close(exact, wanted, 1e-12)


def test_blocks_that_are_not_full_end_early_and_nan_behind_them_stays_there() -> None:
    q, k, v = draw_qkv(2, 100, 250, 2, 16)
    length_G = torch.tensor([60, 1, 0, 33, 10], dtype=torch.int32)
    lists = draw_lists(2, 2, 100, 250, query_rows=32, key_rows=60, density=0.6, length_G=length_G)
    wanted = attend_dense(q, k, v, allowed_tokens(lists, 100, 250))
    row = torch.arange(250)
    behind = row % 60 >= length_G[row // 60]
    k[:, behind], v[:, behind] = torch.nan, torch.nan
    close(attend_blocks(q, k, v, lists), wanted)


def test_blocks_that_no_list_names_are_not_read() -> None:
    q, k, v = draw_qkv(1, 64, 256, 2, 16)
    lists = draw_lists(1, 1, 64, 256, density=0.5)
    unnamed = ~lists.mask(4).any(1).any(1)[0]
    assert unnamed.any()
    wanted = attend_dense(q, k, v, allowed_tokens(lists, 64, 256))
    k[0].view(4, 64, 2, 16)[unnamed] = torch.nan
    v[0].view(4, 64, 2, 16)[unnamed] = torch.nan
    close(attend_blocks(q, k, v, lists), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_seed_adds_the_keys_that_it_stands_for(dtype) -> None:
    q, k, v = draw_qkv(2, 130, 300, 2, 16, dtype=dtype)
    lists = draw_lists(2, 2, 130, 300, key_rows=32, density=0.4)
    parts = [cut_lists(lists, 10, first=first) for first in (True, False)]
    before = attend_blocks_reference(q, k, v, parts[0], precision=torch.float64)
    found = attend_blocks(q, k, v, parts[1], seed=(before[0].float(), before[1].float()))
    assert found[0].dtype == dtype
    tolerance = 2e-6 if dtype == torch.float32 else 1e-2
    close(found, attend_dense(q, k, v, allowed_tokens(lists, 130, 300)), tolerance)


def test_empty_lists_give_the_seed_and_minus_infinity_is_no_seed() -> None:
    q, k, v = draw_qkv(1, 70, 64, 2, 16)
    mixed, lse = torch.randn(1, 70, 2, 16), torch.randn(1, 70, 2) * 9
    empty = draw_lists(1, 1, 70, 64, density=0.0)
    found = attend_blocks(q, k, v, empty, seed=(mixed, lse))
    assert torch.equal(found[0], mixed)
    assert torch.equal(found[1], lse)
    lse[:, ::2], mixed[:, ::2] = -torch.inf, torch.nan
    found = attend_blocks(q, k, v, empty, seed=(mixed, lse))
    assert not found[0][:, ::2].any()
    assert torch.equal(found[1], lse)
    full = draw_lists(1, 1, 70, 64, density=1.0)
    found = attend_blocks(q, k, v, full, seed=(mixed, torch.full_like(lse, -torch.inf)))
    close(found, attend_dense(q, k, v, allowed_tokens(full, 70, 64)))


def test_pages_of_a_pool_are_blocks_that_all_rows_may_name() -> None:
    pages_PL2RND = torch.randn(9, 3, 2, 32, 2, 16)
    k, v = pages_PL2RND[:, 1].unbind(1)
    q = torch.randn(3, 70, 2, 16)
    length_G = torch.full((9,), 32, dtype=torch.int32)
    length_G[4] = 11
    lists = draw_lists(3, 1, 70, 9 * 32, key_rows=32, density=0.4, length_G=length_G)
    wanted = attend_dense(q, k.flatten(0, 1)[None], v.flatten(0, 1)[None], allowed_tokens(lists, 70, 9 * 32))
    close(attend_pages(q, k, v, lists), wanted)
    close(attend_blocks(q, k.flatten(0, 1)[None], v.flatten(0, 1)[None], lists), wanted)


@pytest.mark.parametrize(
    ("index", "count"), [([0, 4, 0], 2), ([-1, 0, 0], 1), ([0, 1, 2], 3), ([0, 1, 2], -1), ([2**31 - 1, 0, 0], 1)]
)
def test_what_is_out_of_range_makes_its_block_nan_and_no_other(index, count) -> None:
    q, k, v = draw_qkv(1, 128, 256, 2, 16)
    lists = draw_lists(1, 2, 128, 256, density=1.0)
    index_BNQC, count_BNQ = lists.index_BNQC[..., :3].clone(), lists.count_BNQ.clone().fill_(2)
    short = replace(lists, index_BNQC=index_BNQC.clone(), count_BNQ=count_BNQ.clone())
    wanted = attend_blocks(q, k, v, short)
    index_BNQC[0, 1, 0], count_BNQ[0, 1, 0] = torch.tensor(index, dtype=torch.int32), count
    mixed, lse = attend_blocks(q, k, v, replace(lists, index_BNQC=index_BNQC, count_BNQ=count_BNQ))
    assert mixed[0, :64, 1].isnan().all()
    assert lse[0, :64, 1].isnan().all()
    for part, expected in ((mixed, wanted[0]), (lse, wanted[1])):
        assert torch.equal(part[0, :, 0], expected[0, :, 0])
        assert torch.equal(part[0, 64:], expected[0, 64:])


Q, K = (1, 100, 2, 64), (1, 200, 2, 64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"v": torch.zeros(1, 199, 2, 64)}, "must agree"),
        ({"k": torch.zeros(1, 200, 1, 64), "v": torch.zeros(1, 200, 1, 64)}, "must agree"),
        ({"k": torch.zeros(K, dtype=torch.float16)}, "torch.float16"),
        ({"q": torch.zeros(3, 100, 2, 64), "k": torch.zeros(2, 200, 2, 64), "v": torch.zeros(2, 200, 2, 64)}, "2 rows"),
        ({"q": torch.zeros(1, 129, 2, 64)}, "2 blocks of queries; there are 1, 2, 3"),
        ({"lists": draw_lists(1, 3, 100, 200)}, "3 heads"),
        ({"lists": draw_lists(2, 2, 100, 200)}, "2 rows"),
        ({"lists": draw_lists(1, 2, 100, 200, length_G=torch.ones(3, dtype=torch.int32))}, "of 3 blocks"),
        ({"lists": replace(draw_lists(1, 2, 100, 200), index_BNQC=torch.zeros(1, 2, 2, 0, dtype=torch.int32))}, "no p"),
        ({"seed": (torch.zeros(1, 99, 2, 64), torch.zeros(1, 99, 2))}, "the seed is"),
        ({"seed": (torch.zeros(Q), torch.zeros(1, 2, 100))}, "the seed is"),
        ({"seed": (torch.zeros(Q), torch.zeros(1, 100, 2, dtype=torch.float64))}, "must be torch.float32"),
    ],
)
def test_what_does_not_belong_together_is_refused(change, words) -> None:
    right = {"q": torch.zeros(Q), "k": torch.zeros(K), "v": torch.zeros(K), "lists": draw_lists(1, 2, 100, 200)}
    attend_blocks(*right.values())
    parts = right | change
    with pytest.raises(ValueError, match=words):
        attend_blocks(*list(parts.values())[:4], seed=parts.get("seed"))


def test_pages_must_have_the_rows_of_a_block() -> None:
    pages = torch.zeros(4, 32, 2, 64)
    with pytest.raises(ValueError, match="pages have 32 rows; blocks of keys have 64"):
        attend_pages(torch.zeros(Q), pages, pages, draw_lists(1, 1, 100, 128))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(1, 100, 2, 96), "96 wide"),
        (torch.zeros(1, 100, 64, 2).mT, "contiguous"),
        (torch.zeros(100 * 2 * 64 + 4)[4:].view(Q), "offset 4"),
        (torch.zeros(1, 100, 132)[..., :128].unflatten(-1, (2, 64)), "multiples of 8"),
    ],
)
def test_what_vector_loads_cannot_read_is_refused_before_the_kernel(tensor, words) -> None:
    right = torch.zeros(1, 100, 2, tensor.shape[-1])
    with pytest.raises(ValueError, match=words):
        api.check_layout(right, tensor, right)


def test_full_lists_are_dense_attention() -> None:
    q, k, v = draw_qkv(1, 96, 160, 2, 16)
    lists = BlockLists.of_mask(torch.ones(1, 1, 2, 3, dtype=torch.bool), query_rows=64, key_rows=64)
    close(attend_blocks(q, k, v, lists), attend_dense(q, k, v, torch.ones(1, 2, 96, 160, dtype=torch.bool)))
