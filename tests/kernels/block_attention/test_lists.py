"""The format of block lists: made of masks, read back, checked."""

from dataclasses import replace

import pytest
import torch

from reelray.kernels.block_attention.lists import BlockLists


def draw_mask(*shape, density=0.4, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def lists_of(mask, **more):
    return BlockLists.of_mask(mask, query_rows=128, key_rows=64, **more)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (1, 4, 9, 33)])
@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_lists_hold_what_the_mask_allows(shape, density):
    mask = draw_mask(*shape, density=density)
    lists = lists_of(mask)
    lists.check(shape[3])
    assert torch.equal(lists.mask(shape[3]), mask)
    assert lists.capacity == int(mask.sum(-1).max()) + 1
    assert lists.density(shape[3]) == pytest.approx(mask.double().mean().item())


def test_lists_ascend_and_say_nothing_behind_their_count():
    mask = torch.tensor([[[[True, False, True, True], [False, True, False, False]]]])
    lists = lists_of(mask, capacity=6)
    assert lists.index_BNQC.tolist() == [[[[0, 2, 3, 0, 0, 0], [1, 0, 0, 0, 0, 0]]]]
    assert lists.count_BNQ.tolist() == [[[3, 1]]]


def test_some_heads_are_views_and_shared_lists_stay_shared():
    lists = lists_of(draw_mask(1, 6, 3, 8))
    part = lists.heads(2, 3)
    assert torch.equal(part.index_BNQC, lists.index_BNQC[:, 2:5])
    assert part.index_BNQC.data_ptr() == lists.index_BNQC[:, 2:].data_ptr()
    shared = lists_of(draw_mask(1, 1, 3, 8))
    assert shared.heads(2, 3) is shared


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"index_BNQC": torch.zeros(1, 1, 2, 3)}, "torch.int32"),
        ({"index_BNQC": torch.zeros(1, 2, 3, dtype=torch.int32)}, r"\[B, N, Q, C\]"),
        ({"count_BNQ": torch.zeros(1, 2, 2, dtype=torch.int32)}, r"\[B, N, Q\]"),
        ({"index_BNQC": torch.zeros(1, 1, 3, 2, dtype=torch.int32).mT}, "one after the other"),
        ({"query_rows": 0}, "at least one"),
        ({"length_G": torch.zeros(1, 4, dtype=torch.int32)}, "one dimension"),
        ({"length_G": torch.zeros(4)}, "torch.int32"),
        ({"order_BNQ": torch.zeros(1, 1, 2)}, "torch.int32"),
        ({"order_BNQ": torch.zeros(1, 1, 3, dtype=torch.int32)}, "counts are"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(change, words):
    right = {
        "index_BNQC": torch.zeros(1, 1, 2, 3, dtype=torch.int32),
        "count_BNQ": torch.zeros(1, 1, 2, dtype=torch.int32),
        "query_rows": 128,
        "key_rows": 64,
    }
    BlockLists(**right)
    with pytest.raises(ValueError, match=words):
        BlockLists(**(right | change))


@pytest.mark.parametrize(
    ("index", "count", "words"),
    [
        ([[0, 4, 0]], [2], "head 0, query block 0 names key block 4 of 4"),
        ([[0, 1, 0], [-1, 0, 0]], [1, 1], "query block 1 names key block -1"),
        ([[0, 1, 2]], [3], "from 3 to 3; lists have 3 places"),
        ([[0, 1, 2]], [-1], "from -1"),
        ([[2, 1, 0]], [2], "not ascending"),
        ([[1, 1, 0]], [2], "not ascending"),
    ],
)
def test_wrong_lists_are_named(index, count, words):
    lists = BlockLists(
        index_BNQC=torch.tensor([[index]], dtype=torch.int32),
        count_BNQ=torch.tensor([[count]], dtype=torch.int32),
        query_rows=64,
        key_rows=64,
    )
    with pytest.raises(ValueError, match=words):
        lists.check(4)


def test_what_stands_behind_a_count_is_not_checked():
    index = torch.tensor([[[[0, 3, 9_999]]]], dtype=torch.int32)
    lists = BlockLists(index_BNQC=index, count_BNQ=torch.tensor([[[2]]], dtype=torch.int32), query_rows=64, key_rows=64)
    lists.check(4)
    assert lists.mask(4).tolist() == [[[[True, False, False, True]]]]


def test_the_longest_lists_of_each_head_start_first():
    mask = torch.tensor([[[[1, 0, 0], [1, 1, 1], [1, 1, 0], [0, 1, 0]], [[0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]]]])
    lists = lists_of(mask.bool())
    assert lists.order_BNQ is None
    ordered = lists.longest_first()
    assert ordered.order_BNQ.tolist() == [[[1, 2, 0, 3], [3, 1, 0, 2]]]
    assert ordered.order_BNQ.dtype == torch.int32
    ordered.check(3)
    assert ordered.heads(1, 1).order_BNQ.tolist() == [[[3, 1, 0, 2]]]


def test_an_order_that_leaves_one_out_and_tokens_beyond_the_rows_are_named():
    lists = lists_of(torch.ones(1, 2, 3, 4).bool(), length_G=torch.tensor([64, 0, 1, 64], dtype=torch.int32))
    lists.check(4)
    with pytest.raises(ValueError, match="every block of queries once"):
        replace(lists, order_BNQ=torch.tensor([[[0, 1, 2], [0, 2, 2]]], dtype=torch.int32)).check(4)
    with pytest.raises(ValueError, match="64 rows have 0 to 65 tokens"):
        replace(lists, length_G=torch.tensor([64, 0, 65, 1], dtype=torch.int32)).check(4)
