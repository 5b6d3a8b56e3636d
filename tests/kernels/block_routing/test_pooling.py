"""Means, sums and self-similarity of blocks against loops over tokens; the kernel against the reference."""

import pytest
import torch

from reelray.kernels.block_routing import api, reference
from tests.support.interpreted import interpreted_only

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}  # rounded once: the tokens are exact

# tokens, rows of a block, parts, lengths
CASES = [
    (1, 16, 1, None),
    (64, 16, 4, None),
    (75, 16, 2, None),
    (50, 15, 3, None),
    (40, 64, 4, None),
    (64, 16, 4, [16, 3, 0, 9]),
    (59, 16, 2, [4, 16, 8, 16]),
]


def draw(case, *, dtype=torch.float32, heads=2, width=10, device="cpu"):
    tokens, rows, parts, lengths = case
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(2, tokens, 3 * heads * width, generator=generator).to(device, dtype)
    x = x.chunk(3, dim=-1)[1].unflatten(-1, (heads, width))
    if lengths is not None:  # what is not there holds anything
        x = x.clone()
        for block, length in enumerate(lengths):
            x[:, block * rows + length : (block + 1) * rows] = torch.nan
        lengths = torch.tensor(lengths, dtype=torch.int32, device=device)
    return x, rows, parts, lengths


def pieces(x, rows, parts, lengths):
    """Every part of every block as [B, tokens, N, D], by slicing."""
    found = []
    for block, first in enumerate(range(0, x.shape[1], rows)):
        end = min(x.shape[1], first + rows)
        if lengths is not None:
            end = min(end, first + int(lengths[block]))
        room = rows // parts
        found.append([x[:, min(first + p * room, end) : min(first + (p + 1) * room, end)] for p in range(parts)])
    return found


@pytest.mark.parametrize("case", CASES)
def test_means_and_counts_are_those_of_slices(case):
    x, rows, parts, lengths = draw(case)
    means = api.pool_blocks(x, rows, parts=parts, length_G=lengths)
    counts = api.count_parts(x.shape[1], rows, parts=parts, length_G=lengths)
    blocks = pieces(x, rows, parts, lengths)
    assert means.shape == (2, 2, len(blocks), parts, 10)
    assert means.dtype == torch.float32
    assert counts.tolist() == [[piece.shape[1] for piece in block] for block in blocks]
    for g, block in enumerate(blocks):
        for p, piece in enumerate(block):
            wanted = piece.double().mean(1) if piece.shape[1] else torch.zeros(2, 2, 10, dtype=torch.float64)
            assert (means[:, :, g, p] - wanted).abs().max() <= 1e-6


@pytest.mark.parametrize("case", CASES)
def test_sums_are_those_of_slices(case):
    x, rows, _, lengths = draw(case)
    sums = api.sum_blocks(x, rows, length_G=lengths)
    for g, [piece] in enumerate(pieces(x, rows, 1, lengths)):
        assert (sums[:, :, g] - piece.double().sum(1)).abs().max() <= 1e-5


@pytest.mark.parametrize("case", CASES)
def test_similarity_is_the_mean_of_a_gram_matrix(case):
    x, rows, parts, lengths = draw(case)
    x[0, 0] = 0.0  # a token of no length
    means, similarity = api.pool_with_similarity(x, rows, parts=parts, length_G=lengths)
    assert torch.equal(means, api.pool_blocks(x, rows, parts=parts, length_G=lengths))
    assert torch.equal(similarity, api.pool_similarity(x, rows, length_G=lengths))
    for g, [piece] in enumerate(pieces(x, rows, 1, lengths)):
        if not piece.shape[1]:
            assert (similarity[:, :, g] == 1).all()
            continue
        unit = torch.nn.functional.normalize(piece.double(), dim=-1).transpose(1, 2)
        assert (similarity[:, :, g] - (unit @ unit.mT).mean((-1, -2))).abs().max() <= 1e-6


def test_equal_tokens_are_similar_and_opposite_ones_are_not():
    x = torch.ones(1, 8, 1, 4)
    x[:, 5::2] = -3.0
    assert api.pool_similarity(x, 4).tolist() == [[[1.0, 0.0]]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rows": 16, "parts": 3}, "into 3 equal parts"),
        ({"rows": 0, "parts": 1}, "blocks of 0 tokens"),
        ({"rows": 16, "parts": 1, "length_G": torch.ones(2, dtype=torch.int32)}, "40 tokens are 3 blocks"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        api.pool_blocks(torch.ones(1, 40, 1, 4), **arguments)
    with pytest.raises(ValueError, match=words):
        api.count_parts(40, **arguments)


@interpreted_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_interpreted_kernel_equals_reference(monkeypatch, dtype, case):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
    check(case, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", [*CASES, (4680, 128, 4, None), (3000, 63, 7, None), (3000, 120, 1, None)])
def test_cuda_kernel_equals_reference(dtype, case):
    check(case, dtype, "cuda")


def check(case, dtype, device):
    from reelray.kernels.block_routing.pooling import pool

    x, rows, parts, lengths = draw(case, dtype=dtype, device=device, width=10 if device == "cpu" else 128)
    x[0, 0] = 0.0
    means, similarity = pool(x, lengths, rows, parts, False, True)
    wanted = reference.pool_blocks(x, rows, parts, lengths), reference.pool_similarity(x, rows, lengths)
    assert means.shape == wanted[0].shape
    assert means.dtype == torch.float32
    assert (means - wanted[0]).abs().max() <= TOLERANCE[dtype]
    assert (similarity - wanted[1]).abs().max() <= TOLERANCE[dtype]
    sums, none = pool(x, lengths, rows, 1, True, False)
    assert none.numel() == 0
    assert (sums[:, :, :, 0] - reference.sum_blocks(x, rows, lengths)).abs().max() <= rows * TOLERANCE[dtype]
