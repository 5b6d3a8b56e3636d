"""What stands for skipped blocks, against softmax in float64; identities; the kernel against the reference."""

import pytest
import torch

from reelray.kernels.attention.lse import attend_with_lse, merge_partials
from reelray.kernels.block_attention.api import attend_blocks
from reelray.kernels.block_attention.lists import BlockLists
from reelray.kernels.block_routing import api, reference
from tests.support.interpreted import interpreted_only

# tokens, query rows, keys, key rows
SIZES = [(32, 16, 48, 16), (37, 16, 45, 8), (20, 32, 9, 4)]


def draw(size, *, heads=2, width=8, dtype=torch.float32, density=0.4, shared=False, seed=0):
    tokens, query_rows, keys, key_rows = size
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, n, heads, width, generator=generator).to(dtype) for n in (tokens, keys, keys))
    shape = (1, 1) if shared else (2, heads)
    mask = torch.rand(*shape, -(-tokens // query_rows), -(-keys // key_rows), generator=generator) < density
    return q, k, v, BlockLists.of_mask(mask, query_rows=query_rows, key_rows=key_rows)


def pool(k, v, rows):
    """Means of keys, sums of values, sizes of blocks."""
    sizes = api.count_parts(k.shape[1], rows)[:, 0]
    return api.pool_blocks(k, rows)[:, :, :, 0], api.sum_blocks(v, rows), sizes


def attend_means(q, parts, mask, query_rows):
    """The formula in float64, over all scores at once."""
    k_means, v_sums, sizes = parts
    logits = torch.einsum("bsnd,bngd->bnsg", q.double(), k_means.double()) * q.shape[-1] ** -0.5
    weights = (
        logits.exp()
        * ~mask.expand(*q.shape[:1], q.shape[2], -1, -1).repeat_interleave(query_rows, 2)[:, :, : q.shape[1]]
    )
    total = (weights * sizes).sum(-1)
    mixed = weights @ v_sums.double() / total.clamp(min=1e-300)[..., None]
    return mixed.transpose(1, 2), total.log().transpose(1, 2)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_mix_and_log_are_those_of_the_formula(size, shared):
    q, k, v, lists = draw(size, shared=shared)
    parts = pool(k, v, size[3])
    mixed, lse = api.compensate(q, *parts, lists)
    wanted, wanted_lse = attend_means(q, parts, lists.mask(len(parts[2])), size[1])
    assert mixed.dtype == lse.dtype == torch.float32
    assert (mixed - wanted).abs().max() <= 1e-5
    torch.testing.assert_close(lse, wanted_lse.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_left_where_all_blocks_are_listed(size):
    q, k, v, lists = draw(size, density=1.1)
    mixed, lse = api.compensate(q, *pool(k, v, size[3]), lists)
    assert (mixed == 0).all()
    assert (lse == -torch.inf).all()


@pytest.mark.parametrize("size", SIZES)
def test_blocks_of_equal_keys_are_exact(size):
    """Merged with exact attention over the listed blocks it is dense attention."""
    tokens, query_rows, keys, key_rows = size
    q, k, v, lists = draw(size)
    k = k[:, ::key_rows].repeat_interleave(key_rows, 1)[:, :keys]
    mixed, lse = api.compensate(q, *pool(k, v, key_rows), lists)
    is_listed = lists.mask(-(-keys // key_rows)).repeat_interleave(key_rows, 3)[..., :keys]
    dense, _ = attend_with_lse(q, k, v)
    for block, first in enumerate(range(0, tokens, query_rows)):
        for row in range(2):
            for head in range(2):
                here = (slice(row, row + 1), slice(first, first + query_rows), slice(head, head + 1))
                picked = is_listed[row, head, block].nonzero().flatten()
                merged = mixed[here]
                if len(picked):
                    part = k[row : row + 1, picked, head : head + 1], v[row : row + 1, picked, head : head + 1]
                    exact, exact_lse = attend_with_lse(q[here], *part)
                    merged, _ = merge_partials(exact, exact_lse, mixed[here], lse[here], dtype=torch.float32)
                assert (merged - dense[here]).abs().max() <= 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_as_a_seed_it_makes_sparse_attention_dense_where_keys_of_a_block_are_equal(size):
    _, _, keys, key_rows = size
    q, k, v, lists = draw(size)
    k = k[:, ::key_rows].repeat_interleave(key_rows, 1)[:, :keys]
    seed = api.compensate(q, *pool(k, v, key_rows), lists)
    mixed, lse = attend_blocks(q, k, v, lists, seed=seed)
    dense, dense_lse = attend_with_lse(q, k, v)
    assert (mixed - dense).abs().max() <= 1e-5
    assert (lse - dense_lse).abs().max() <= 1e-5


def test_blocks_without_tokens_have_no_weight():
    q, k, v, _ = draw((8, 8, 16, 4))
    lists = BlockLists.of_mask(torch.zeros(1, 1, 1, 4, dtype=torch.bool), query_rows=8, key_rows=4)
    length = torch.tensor([4, 0, 4, 2], dtype=torch.int32)
    sizes = api.count_parts(16, 4, length_G=length)[:, 0]
    k_means, v_sums = api.pool_blocks(k, 4, length_G=length)[:, :, :, 0], api.sum_blocks(v, 4, length_G=length)
    mixed, lse = api.compensate(q, k_means, v_sums, sizes, lists)
    there = [0, 2, 3]
    fewer = BlockLists.of_mask(torch.zeros(1, 1, 1, 3, dtype=torch.bool), query_rows=8, key_rows=4)
    wanted, wanted_lse = api.compensate(q, k_means[:, :, there], v_sums[:, :, there], sizes[there], fewer)
    torch.testing.assert_close(mixed, wanted)
    torch.testing.assert_close(lse, wanted_lse)


def test_parts_that_do_not_belong_together_are_refused():
    q, k, v, lists = draw((32, 16, 48, 16))
    k_means, v_sums, sizes = pool(k, v, 16)
    with pytest.raises(ValueError, match="means are"):
        api.compensate(q, k_means[:, :1], v_sums, sizes, lists)
    with pytest.raises(ValueError, match="sizes_G"):
        api.compensate(q, k_means, v_sums, sizes[:2], lists)
    with pytest.raises(ValueError, match="2 lists of 16 rows"):
        api.compensate(q[:, :16], k_means, v_sums, sizes, lists)


TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@interpreted_only
@pytest.mark.filterwarnings("ignore:All-NaN slice")  # numpy's, of a maximum
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])  # the interpreter multiplies bfloat16 as integers
@pytest.mark.parametrize("size", [*SIZES, (150, 140, 290, 4)])
def test_interpreted_kernel_equals_reference(monkeypatch, dtype, size):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
    monkeypatch.setattr("reelray.kernels.block_routing.compensation.LISTED", 4)  # fewer than a list has
    check(size, dtype, "cpu", width=8)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [*SIZES, (150, 140, 290, 4), (1500, 128, 4680, 64), (1000, 63, 4680, 63)])
def test_cuda_kernel_equals_reference(dtype, size):
    for width in (24, 64, 128):
        check(size, dtype, "cuda", width=width)


def check(size, dtype, device, *, width):
    from reelray.kernels.block_routing.compensation import compensate

    for shared, density in ((False, 0.4), (True, 0.7), (False, 1.1), (False, 0.0)):
        q, k, v, lists = draw(size, width=width, dtype=dtype, shared=shared, density=density)
        q, k, v = (x.to(device) for x in (q, k, v))
        k_means, v_sums, sizes = pool(k, v, size[3])
        sizes[-1] = 0
        v_means = v_sums / sizes.clamp(min=1)[:, None]
        index, count = lists.index_BNQC.to(device), lists.count_BNQ.to(device)
        parts = k_means.to(dtype), v_means.to(dtype), sizes.float().log()
        mixed, lse = compensate(q, *parts, index, count, size[1], width**-0.5)
        k_scaled = parts[0].float() * width**-0.5
        mask = lists.mask(len(sizes)).to(device)
        wanted = reference.compensate(q, k_scaled, *parts[1:], listed=mask, query_rows=size[1])
        assert mixed.dtype == lse.dtype == torch.float32
        assert (mixed - wanted[0]).abs().max() <= TOLERANCE[dtype]
        torch.testing.assert_close(lse, wanted[1], atol=max(1e-5, TOLERANCE[dtype] / 10), rtol=0)
        if density > 1:
            assert (mixed == 0).all()
            assert (lse == -torch.inf).all()
        if density != 0.4:
            continue
        q[0, 0] = torch.nan
        mixed, lse = compensate(q, *parts, index, count, size[1], width**-0.5)
        is_empty = mask[0, :, 0, : len(sizes) - 1].all(-1)
        assert (lse[0, 0].isnan() | is_empty).all()
        assert (mixed[0, 0].isnan().all(-1) | is_empty).all()
        assert not lse[0, 1:].isnan().any()
