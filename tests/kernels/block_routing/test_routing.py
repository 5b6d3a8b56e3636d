"""A whole routing, from tokens to lists and what stands for the rest: the kernels against the references."""

import pytest
import torch

from reelray.kernels.block_routing import api
from tests.support.interpreted import interpreted_only


def draw(device, dtype=torch.float32, *, tokens=75, width=16):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, tokens, 2, width, generator=generator).to(device, dtype) for _ in range(3)]


def route(q, k, v, *, rows=16, parts=2):
    """Every function of the room once."""
    q_counts, k_counts = (api.count_parts(x.shape[1], rows, parts=parts, device=x.device) for x in (q, k))
    scores = api.score_blocks(
        api.pool_blocks(q, rows, parts=parts),
        api.pool_blocks(k, rows, parts=parts),
        q.shape[-1] ** -0.5,
        q_counts_QP=q_counts,
        k_counts_GR=k_counts,
    )
    keep = torch.eye(*scores.shape[2:], dtype=torch.bool, device=q.device)
    lists = api.select_blocks(scores, query_rows=rows, key_rows=rows, mass=0.6, keep=keep, most=4, capacity=6)
    sizes = k_counts.sum(-1, dtype=torch.int32)
    k_means, similarity = api.pool_with_similarity(k, rows)
    mixed, lse = api.compensate(q, k_means[:, :, :, 0], api.sum_blocks(v, rows), sizes, lists)
    return scores, lists.index_BNQC, lists.count_BNQ, similarity, mixed, lse


def check(found, wanted, tolerance):
    assert torch.equal(found[2].cpu(), wanted[2])
    assert torch.equal(found[1].cpu(), wanted[1])
    for place in (0, 3, 4, 5):
        torch.testing.assert_close(found[place].cpu(), wanted[place], atol=tolerance, rtol=0)


@interpreted_only
@pytest.mark.filterwarnings("ignore:divide by zero")  # numpy's, of log 0
def test_interpreted_kernels_route_as_the_references_do(monkeypatch):
    wanted = route(*draw("cpu"))
    launches = []
    monkeypatch.setattr(api, "_runs_triton", lambda tensor: launches.append(tensor.shape) or True)
    check(route(*draw("cpu")), wanted, 1e-4)
    assert len(launches) == 7


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [75, 4680])
def test_cuda_kernels_route_as_the_references_do(tokens):
    wanted = route(*draw("cpu", tokens=tokens, width=128))
    check(route(*draw("cuda", tokens=tokens, width=128)), wanted, 1e-4)


@pytest.mark.gpu
def test_cuda_kernels_compile_without_breaks():
    parts = draw("cuda", torch.bfloat16, tokens=4680, width=128)
    for found, wanted in zip(torch.compile(route, fullgraph=True)(*parts), route(*parts), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-2, rtol=0)


def test_references_compile_without_breaks():
    parts = draw("cpu")
    compiled = torch.compile(route, fullgraph=True, backend="aot_eager")
    check(compiled(*parts), route(*parts), 1e-5)


def test_rows_that_do_not_fit_registers_are_sorted(monkeypatch):
    scores = torch.randn(1, 2, 3, 9, generator=torch.Generator().manual_seed(0))
    wanted = api.select_blocks(scores, query_rows=16, key_rows=16, count=3)
    monkeypatch.setattr(api, "_runs_triton", torch.is_tensor)
    monkeypatch.setattr(api, "MOST_BLOCKS", 8)
    found = api.select_blocks(scores, query_rows=16, key_rows=16, count=3)
    assert torch.equal(found.index_BNQC, wanted.index_BNQC)


@pytest.mark.gpu
def test_cuda_sorts_rows_that_do_not_fit_registers():
    scores = torch.randn(1, 1, 2, 5000, generator=torch.Generator().manual_seed(0))
    wanted = api.select_blocks(scores, query_rows=16, key_rows=16, mass=0.5)
    found = api.select_blocks(scores.cuda(), query_rows=16, key_rows=16, mass=0.5)
    assert torch.equal(found.count_BNQ.cpu(), wanted.count_BNQ)
    assert torch.equal(found.index_BNQC.cpu(), wanted.index_BNQC)
