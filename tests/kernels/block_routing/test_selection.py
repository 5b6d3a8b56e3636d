"""Selection against lists made by sorting one row at a time in plain Python."""

import math
import random

import pytest
import torch

from reelray.kernels.block_routing import api, select_reference
from tests.support.interpreted import interpreted_only

INF = math.inf


def choose(scores, *, keep=(), drop=(), count=None, mass=None, least=1, most=None):
    """The blocks of one row: numbers in, ascending numbers out."""
    keep = set(keep)
    there = [g for g in range(len(scores)) if g in keep or (g not in drop and scores[g] != -INF)]
    endless = [g for g in there if math.isnan(scores[g]) or scores[g] == INF]
    height = {g: INF if g in endless else scores[g] for g in there}
    ranked = sorted(there, key=lambda g: (g not in keep, -height[g], g))
    most = max(len(keep), len(scores) if most is None else most)
    need = max(least, count or 0, len(keep))
    if mass is not None:
        if endless:
            weight = {g: float(g in endless) for g in there}
        else:
            top = max(height.values(), default=0.0)
            weight = {g: math.exp(height[g] - top) for g in there}
        reached, wanted, total = 0.0, 0, sum(weight.values())
        for g in ranked:
            if reached >= mass * total:
                break
            reached += weight[g]
            wanted += 1
        need = max(need, wanted)
    return sorted(ranked[: min(need, most)])


def select(scores, **how):
    lists = api.select_blocks(scores, query_rows=64, key_rows=32, **how)
    lists.check(scores.shape[3])
    assert (lists.query_rows, lists.key_rows) == (64, 32)
    # what is read ahead names a block that exists
    behind = torch.arange(lists.capacity) >= lists.count_BNQ[..., None].cpu()
    assert (lists.index_BNQC.cpu()[behind] == 0).all()
    return lists


def rows_of(lists):
    """Every list as Python numbers, in the order of [B, N, Q]."""
    flat = lists.index_BNQC.flatten(0, 2).tolist()
    return [row[:count] for row, count in zip(flat, lists.count_BNQ.flatten().tolist(), strict=True)]


def draw(shape, *, levels=None, seed=0):
    """Scores, of a few equal levels where ties are wanted."""
    generator = torch.Generator().manual_seed(seed)
    if levels:
        return torch.randint(-levels, levels + 1, shape, generator=generator).float() / 2
    return torch.randn(shape, generator=generator) * 2


SHAPES = [(1, 1, 1, 1), (2, 3, 2, 7), (1, 2, 3, 33)]
HOW = [
    {"count": 1},
    {"count": 4},
    {"count": 400},
    {"count": 0, "least": 0},
    {"mass": 0.5},
    {"mass": 0.93},
    {"mass": 0.6, "least": 3},
    {"mass": 0.9, "most": 2},
    {"mass": 0.5, "count": 3},
    {"count": 3, "most": 2},
]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_lists_are_those_of_a_sorted_row(shape, levels, how):
    check_rows(draw(shape, levels=levels, seed=1), how)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("seed", range(3))
def test_lists_with_kept_dropped_and_endless_blocks(seed, how):
    check_rows(*draw_hard((2, 2, 4, 19), seed), how)


def draw_hard(shape, seed):
    """Scores with ties, minus infinity, infinity and not a number, and masks that overlap."""
    scores = draw(shape, levels=4, seed=seed)
    keep, drop = (torch.rand(shape, generator=torch.Generator().manual_seed(seed + n)) < 0.15 for n in (1, 2))
    pick = random.Random(seed)
    for value in (-INF, -INF, -INF, INF, math.nan):
        b, n, q, g = (pick.randrange(size) for size in shape)
        scores[b, n, q, g] = value
    scores[0, 0, 0], scores[0, 0, 1] = -INF, math.nan
    drop[1, 0, 0] = True
    return scores, keep, drop


def check_rows(scores, *masks_and_how, select=select):
    *masks, how = masks_and_how
    keep, drop = masks or (None, None)
    found = rows_of(select(scores, keep=keep, drop=drop, **how))
    flat = scores.flatten(0, 2).tolist()
    keeps, drops = (
        [[]] * len(flat) if mask is None else [row.nonzero().flatten().tolist() for row in mask.flatten(0, 2)]
        for mask in (keep, drop)
    )
    most = how.get("most")
    for row, kept, dropped, chosen in zip(flat, keeps, drops, found, strict=True):
        assert chosen == choose(row, keep=kept, drop=dropped, **how), (row, kept, dropped, how)
        assert most is None or len(chosen) <= max(most, len(kept))


def test_count_is_met_exactly_among_equal_scores_and_the_lower_block_wins():
    lists = select(torch.zeros(1, 2, 3, 9), count=4)
    assert rows_of(lists) == [[0, 1, 2, 3]] * 6
    assert lists.capacity == 5


def test_kept_blocks_are_part_of_the_count_and_win_over_dropped_ones():
    scores = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]).expand(1, 1, 1, 5)
    keep = torch.tensor([False, False, False, True, True])
    drop = torch.tensor([True, False, False, False, True])
    assert rows_of(select(scores, keep=keep, drop=drop, count=3)) == [[1, 3, 4]]
    assert rows_of(select(scores, keep=keep, drop=drop, count=1)) == [[3, 4]]
    assert rows_of(select(scores, keep=~drop[None], count=1, most=2)) == [[1, 2, 3]]
    assert rows_of(select(torch.full((1, 1, 1, 5), -INF), keep=keep, count=4)) == [[3, 4]]


def test_a_row_without_blocks_is_empty():
    scores = draw((1, 1, 2, 6))
    drop = torch.zeros(1, 1, 2, 6, dtype=torch.bool)
    drop[:, :, 1] = True
    for how in ({"count": 2}, {"mass": 0.9}):
        lists = select(scores, drop=drop, **how)
        assert lists.count_BNQ[0, 0, 1] == 0
        assert lists.count_BNQ[0, 0, 0] > 0


def test_odd_scores():
    check_odd(select)


def check_odd(select):
    """Zeros of both signs, numbers that are none of both signs, infinity, and masses that these leave to nothing."""
    none = torch.tensor([0x7FC00000, -0x400000], dtype=torch.int32).view(torch.float32)
    assert none.isnan().all()
    plus, minus = none.tolist()
    for row, how, wanted in (
        ([-0.0, 0.0, -0.0, 0.0], {"count": 2}, [0, 1]),
        ([1.0, plus, 2.0, INF], {"count": 2}, [1, 3]),
        ([1.0, plus, 2.0, INF], {"count": 3}, [1, 2, 3]),
        ([1.0, plus, 2.0, INF], {"mass": 0.9}, [1, 3]),
        ([INF, plus, minus, 3.0], {"count": 1}, [0]),
        ([1.0, INF, minus, plus], {"count": 2}, [1, 2]),
        ([minus] * 4, {"count": 2}, [0, 1]),
        ([minus] * 4, {"mass": 0.9}, [0, 1, 2, 3]),
        ([2.0, INF, 2.0, 2.0], {"mass": 0.6, "least": 2}, [0, 1]),
        ([0.0, -200.0, -200.0, -300.0], {"mass": 1.0, "least": 2}, [0, 1]),
    ):
        scores = torch.tensor(row)
        scores[[n for n, score in enumerate(row) if score is minus]] = none[1]  # a list does not keep the sign
        assert rows_of(select(scores.expand(1, 1, 1, 4), **how)) == [wanted], (row, how)


def test_heads_may_differ():
    scores = draw((2, 3, 2, 8))
    count = torch.tensor([1, 4, 9], dtype=torch.int32)
    lists = select(scores, count=count)
    assert lists.count_BNQ.tolist() == [[[1, 1], [4, 4], [8, 8]]] * 2
    assert lists.capacity == 9
    assert select(scores, count=count, most=5).capacity == 6
    assert select(scores, count=count[:2, None]).count_BNQ.tolist() == [[[1, 1]] * 3, [[4, 4]] * 3]
    share = torch.tensor([[0.3, 0.6, 0.99]])
    found = rows_of(select(scores, mass=share))
    wanted = [
        choose(row.tolist(), mass=float(share[0, head]))
        for head, row in ((n, scores[b, n, q]) for b in range(2) for n in range(3) for q in range(2))
    ]
    assert found == wanted


def test_capacity_is_known_beforehand_and_never_exceeded():
    scores = draw((1, 2, 3, 12))
    keep = torch.zeros(12, dtype=torch.bool)
    keep[[2, 5, 7]] = True
    assert select(scores, mass=0.9, most=4).capacity == 5
    assert select(scores, mass=0.9).capacity == 13
    assert select(scores, count=30).capacity == 13
    assert select(scores, count=2, keep=keep).capacity == 13
    assert select(scores, count=2, keep=keep, capacity=9).capacity == 9
    assert select(scores, count=2, capacity=30).capacity == 30
    assert rows_of(select(scores, count=8, keep=keep, capacity=3)) == [[2, 5]] * 6
    cut = rows_of(select(scores, count=8, capacity=4))
    assert cut == rows_of(select(scores, count=3))


def test_blocks_without_tokens_are_dropped():
    length = torch.tensor([4, 0, 8, 0], dtype=torch.int32)
    scores = torch.tensor([[[[0.0, 9.0, 1.0, 9.0]]]])
    lists = select(scores, count=3, length_G=length)
    assert rows_of(lists) == [[0, 2]]
    assert lists.length_G is length
    drop = torch.tensor([True, False, False, False])
    assert rows_of(select(scores, count=3, length_G=length, drop=drop)) == [[2]]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({}, "either count or mass"),
        ({"count": -1}, "-1 by count"),
        ({"count": 2, "least": 3, "most": 2}, "3 blocks at least, 2 at most"),
        ({"mass": 0.0}, "mass is 0.0"),
        ({"mass": 1.5}, "mass is 1.5"),
        ({"mass": math.nan}, "mass is nan"),
        ({"count": 2, "capacity": 0}, "capacity is 0"),
        ({"count": torch.tensor([1.0, 2.0])}, "count is torch.float32"),
        ({"count": torch.ones(3, dtype=torch.int32)}, "2 heads"),
        ({"count": 1, "keep": torch.ones(5)}, "keep is torch.float32"),
        ({"count": 1, "length_G": torch.ones(4, dtype=torch.int32)}, "there are 5 blocks"),
    ],
)
def test_limits_that_make_no_sense_are_refused(how, words):
    with pytest.raises(ValueError, match=words):
        select(torch.zeros(1, 2, 3, 5), **how)
    with pytest.raises(ValueError, match="float32"):
        select(torch.zeros(1, 2, 3, 5, dtype=torch.bfloat16), count=1)


def check_kernel(scores, device="cpu", **how):
    """The kernel's lists, which are those of the reference."""
    from reelray.kernels.block_routing import selection

    def launch(scores, keep, drop, limits):
        parts = [None if part is None else part.to(device) for part in (keep, drop, limits.count_BN, limits.mass_BN)]
        found = selection.select(
            scores.to(device), *parts, limits.least, limits.most, limits.mass, limits.is_exact, limits.capacity
        )
        return tuple(part.cpu() for part in found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select_reference, "select", launch)
        return select(scores, **how)


NUMPY = "ignore:All-NaN slice", "ignore:invalid value"


@interpreted_only
@pytest.mark.filterwarnings(*NUMPY)
@pytest.mark.parametrize("how", HOW)
def test_interpreted_kernel_makes_lists_of_a_sorted_row(monkeypatch, how):
    poison(monkeypatch)
    check_rows(draw((1, 1, 1, 1)), how, select=check_kernel)
    check_rows(draw((1, 2, 1, 33), seed=1), how, select=check_kernel)
    check_rows(*draw_hard((2, 1, 3, 19), 0), how, select=check_kernel)


@interpreted_only
@pytest.mark.filterwarnings(*NUMPY)
def test_interpreted_kernel_equals_reference_in_everything_else(monkeypatch):
    check_rest(monkeypatch, "cpu")


@pytest.mark.gpu
def test_cuda_kernel_makes_lists_of_a_sorted_row(monkeypatch):
    def on_cuda(*parts, **how):
        return check_kernel(*parts, device="cuda", **how)

    for how in HOW:
        for levels in (None, 3):
            for shape in (*SHAPES, (1, 2, 3, 700), (1, 1, 4, 4096)):
                check_rows(draw(shape, levels=levels, seed=1), how, select=on_cuda)
        for seed in range(3):
            check_rows(*draw_hard((2, 2, 4, 19), seed), how, select=on_cuda)
    check_rest(monkeypatch, "cuda")


def poison(monkeypatch):
    """What the kernel leaves out names no block."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(-7))


def check_rest(monkeypatch, device):
    poison(monkeypatch)
    scores = draw((2, 3, 1, 70))
    keep = torch.zeros(3, 1, 70, dtype=torch.bool)
    keep[1:, :, [5, 66]] = True
    count = torch.tensor([[1], [9]], dtype=torch.int32)
    share = torch.tensor([0.3, 0.8, 0.99])
    for how in (
        {"count": count},
        {"count": count, "keep": keep, "most": 5},
        {"mass": share, "drop": keep},
        {"mass": share, "keep": keep, "drop": ~keep},
        {"mass": share, "count": count, "most": 20},
        {"count": 8, "keep": keep, "capacity": 2},
        {"count": 8, "capacity": 300},
        {"mass": 1.0, "capacity": 4},
        {"count": 3, "length_G": torch.arange(70, dtype=torch.int32) % 3},
        {"count": 3, "keep": torch.ones(3, 1, 1, dtype=torch.bool)},
    ):
        found, wanted = check_kernel(scores, device, **how), select(scores, **how)
        assert torch.equal(found.index_BNQC, wanted.index_BNQC), how
        assert torch.equal(found.count_BNQ, wanted.count_BNQ), how
    check_odd(lambda scores, **how: check_kernel(scores, device, **how))
    one = scores[:1, :1]
    wide = torch.cat([one * 1e-30, one * 1e30, -one.abs() * 1e-38, torch.zeros_like(one)], -1)
    for k in (1, 69, 150, 279):
        assert rows_of(check_kernel(wide, device, count=k)) == rows_of(select(wide, count=k))
