"""Scores of blocks against formulas over single pairs; the kernel against the reference."""

import math

import pytest
import torch

from reelray.kernels.block_routing import api, reference
from tests.support.interpreted import interpreted_only


def draw(*shape, seed=0, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def counts_of(*rows):
    return torch.tensor(rows, dtype=torch.int32)


def test_scores_are_log_sum_exp_over_pairs_of_parts():
    q, k = draw(2, 3, 4, 2, 8), draw(2, 3, 5, 3, 8, seed=1)
    scores = api.score_blocks(q, k, 0.7)
    assert scores.shape == (2, 3, 4, 5)
    for b, n, i, j in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 2, 3)]:
        pairs = [float(0.7 * (q[b, n, i, p].double() @ k[b, n, j, r].double())) for p in range(2) for r in range(3)]
        assert scores[b, n, i, j].item() == pytest.approx(math.log(sum(map(math.exp, pairs))), abs=1e-5)


def test_one_part_each_is_the_product_of_means():
    q, k = draw(1, 2, 6, 1, 16), draw(1, 2, 3, 1, 16, seed=1)
    wanted = 0.25 * q[:, :, :, 0].double() @ k[:, :, :, 0].double().mT
    assert (api.score_blocks(q, k, 0.25) - wanted).abs().max() <= 1e-5


def test_parts_without_tokens_do_not_count():
    q, k = draw(1, 1, 2, 2, 8), draw(1, 1, 3, 2, 8, seed=1)
    q_counts, k_counts = counts_of([4, 4], [3, 0]), counts_of([4, 1], [2, 0], [0, 0])
    scores = api.score_blocks(q, k, 1.0, q_counts_QP=q_counts, k_counts_GR=k_counts)
    assert scores[0, 0, 1, 1] == pytest.approx(float(q[0, 0, 1, 0] @ k[0, 0, 1, 0]), abs=1e-5)
    both = torch.stack([q[0, 0, 0, p] @ k[0, 0, 1, 0] for p in range(2)])
    assert scores[0, 0, 0, 1] == pytest.approx(float(both.logsumexp(0)), abs=1e-5)
    assert (scores[0, 0, :, 2] == -torch.inf).all()


def test_large_scores_do_not_overflow():
    q, k = torch.full((1, 1, 1, 2, 4), 30.0), torch.full((1, 1, 1, 2, 4), 30.0)
    assert api.score_blocks(q, k, 1.0).item() == pytest.approx(3600 + math.log(4), abs=1e-3)


def test_work_in_turns_gives_the_same(monkeypatch):
    q, k, x = draw(1, 2, 7, 2, 8), draw(1, 2, 5, 2, 8), draw(1, 45, 2, 8)
    whole = api.score_blocks(q, k, 1.0), api.score_antidiagonals(x, x, 8, 16, 4)
    monkeypatch.setattr(reference, "ELEMENTS_AT_ONCE", 1)
    turns = api.score_blocks(q, k, 1.0), api.score_antidiagonals(x, x, 8, 16, 4)
    for one, other in zip(whole, turns, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("queries", "keys"), [(16, 24), (21, 19), (5, 32)])
def test_antidiagonals_are_sums_over_pairs_of_tokens(queries, keys):
    stride, rows_q, rows_k = 4, 8, 8
    q, k = draw(2, queries, 2, 6).double(), draw(2, keys, 2, 6, seed=1).double()
    logits = torch.zeros(2, 2, -(-queries // stride), -(-keys // stride), dtype=torch.float64)
    for i in range(queries):
        for j in range(keys):
            if i % stride + j % stride == stride - 1:
                logits[:, :, i // stride, j // stride] += (q[:, i] * k[:, j]).sum(-1) * 0.3 / stride
    mass = logits.softmax(-1)
    found = api.score_antidiagonals(q.float(), k.float(), rows_q, rows_k, stride, scale=0.3)
    assert found.shape == (2, 2, -(-queries // rows_q), -(-keys // rows_k))
    for block, first in enumerate(range(0, mass.shape[2], rows_q // stride)):
        rows = mass[:, :, first : first + rows_q // stride].mean(2)
        for key, column in enumerate(range(0, mass.shape[3], rows_k // stride)):
            wanted = rows[..., column : column + rows_k // stride].sum(-1).log()
            assert (found[:, :, block, key] - wanted).abs().max() <= 1e-5
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(found.shape[:3]), atol=1e-5, rtol=0)


def test_parts_that_do_not_belong_together_are_refused():
    q, k = torch.ones(1, 2, 3, 1, 4), torch.ones(1, 2, 5, 2, 4)
    with pytest.raises(ValueError, match="must agree"):
        api.score_blocks(q, k[:, :1], 1.0)
    with pytest.raises(ValueError, match="k_counts_GR"):
        api.score_blocks(q, k, 1.0, k_counts_GR=counts_of([1, 1]))
    with pytest.raises(ValueError, match="whole groups of 4"):
        api.score_antidiagonals(torch.ones(1, 8, 1, 4), torch.ones(1, 8, 1, 4), 8, 6, 4)


# query blocks, their parts, key blocks, their parts, width
SIZES = [(1, 1, 1, 1, 8), (5, 1, 70, 1, 16), (33, 4, 17, 4, 16), (4, 3, 25, 7, 20), (2, 2, 3, 1, 24)]
PRECISION = {"ieee": 1e-5, "split": 1e-4, "half": 3e-3}


@interpreted_only
@pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:divide by zero")  # numpy's, of a maximum and of log 0
@pytest.mark.parametrize("precision", PRECISION)
@pytest.mark.parametrize("size", SIZES)
def test_interpreted_kernel_equals_reference(monkeypatch, precision, size):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
    check(size, precision, PRECISION[precision], "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [*PRECISION.items(), ("tf32x3", 1e-5), ("tf32", 1e-2)])
@pytest.mark.parametrize("size", [*SIZES, (591, 4, 591, 4, 128), (256, 1, 300, 1, 64), (100, 2, 300, 8, 128)])
def test_cuda_kernel_equals_reference(precision, tolerance, size):
    check(size, precision, tolerance, "cuda")


def check(size, precision, tolerance, device):
    from reelray.kernels.block_routing.scores import score

    queries, parts, keys, key_parts, width = size
    q = draw(2, 2, queries, parts, width, device=device)
    k = draw(2, 2, keys, key_parts, width, seed=1, device=device)
    q[0, 0, -1, -1, 0] = torch.nan
    scale = width**-0.5
    counts = torch.ones(queries, parts, dtype=torch.int32), torch.ones(keys, key_parts, dtype=torch.int32)
    counts[0][0, 1:] = 0
    counts[1][-1] = 0
    for pair in ((None, None), [part.to(device) for part in counts]):
        found = score(q, k, scale, *pair, precision)
        wanted = reference.score_blocks(q, k, scale, *pair)
        assert found.shape == wanted.shape
        torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0, equal_nan=True)
        if pair[0] is None:
            assert found[0, 0, -1].isnan().all()


# query tokens, key tokens, rows of their blocks, stride, width
DIAGONALS = [(16, 24, 8, 8, 4, 8), (21, 19, 12, 8, 4, 20), (5, 300, 8, 9, 1, 16), (290, 37, 126, 63, 9, 16)]


@interpreted_only
@pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:divide by zero", "ignore:invalid value")  # numpy's
@pytest.mark.parametrize("case", DIAGONALS)
def test_interpreted_kernel_of_antidiagonals_equals_reference(monkeypatch, case):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
    check_antidiagonals(case, torch.float32, 1e-4, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-4)])
@pytest.mark.parametrize("case", [*DIAGONALS, (4680, 4680, 128, 64, 16, 128), (3000, 5000, 64, 64, 8, 64)])
def test_cuda_kernel_of_antidiagonals_equals_reference(dtype, tolerance, case):
    check_antidiagonals(case, dtype, tolerance, "cuda")


def check_antidiagonals(case, dtype, tolerance, device):
    from reelray.kernels.block_routing.antidiagonals import score

    queries, keys, rows_q, rows_k, stride, width = case
    q = draw(2, queries, 2, width, device=device).to(dtype)
    k = draw(2, keys, 4, width, seed=1, device=device).to(dtype)[:, :, 1:3]
    found = score(q, k, rows_q, rows_k, stride, 0.5)
    wanted = reference.score_antidiagonals(q, k, (rows_q, rows_k), stride, 0.5)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= tolerance
    q[0, 0, 0, 0] = torch.nan
    is_wrong = score(q, k, rows_q, rows_k, stride, 0.5).isnan()
    assert is_wrong[0, 0, 0].all()
    assert is_wrong.sum() == is_wrong[0, 0, 0].numel()


@interpreted_only
def test_interpreted_halves_do_not_overflow():
    from reelray.kernels.block_routing.scores import score

    q, k = torch.full((1, 1, 1, 1, 16), 1e6), torch.full((1, 1, 1, 1, 16), -1e-3)
    assert -16 * 66 < score(q, k, 1.0, None, None, "half").item() < -16 * 65


def test_a_share_that_vanishes_is_small_and_there():
    check_vanishing("cpu")


@interpreted_only
@pytest.mark.filterwarnings("ignore:divide by zero")  # numpy's, of log 0
def test_interpreted_kernel_knows_shares_that_vanish(monkeypatch):
    monkeypatch.setattr(api, "_runs_triton", torch.is_tensor)
    check_vanishing("cpu")


def check_vanishing(device):
    """Minus infinity would mean that there is no block."""
    q, k = torch.ones(1, 8, 1, 16, device=device), torch.ones(1, 16, 1, 16, device=device)
    k[:, 8:] = -40.0
    scores = api.score_antidiagonals(q, k, 8, 8, 4, scale=1.0)
    assert scores[..., 0] == pytest.approx(0.0, abs=1e-6)
    assert -1000 < scores[..., 1] < -80
