"""Trained branches against their formulas, token by token in float64."""

import math

import pytest
import torch
from torch import Tensor

from reelray.workers.acceleration.sparsity.router import Blocking, Scene
from reelray.workers.acceleration.sparsity.tilings import CUBE, frame_major, tiled
from reelray.workers.acceleration.sparsity.trained import Sla, SlaNames, Vsa, VsaNames

HEADS, WIDTH = 2, 8


def draw(tokens: int, count: int) -> list[Tensor]:
    made = torch.Generator().manual_seed(0)
    return [torch.randn(2, tokens, HEADS, WIDTH, generator=made) * 2 for _ in range(count)]


def plain(blocking: Blocking, density: float) -> Scene:
    return Scene(blocking=blocking, density=density)


def test_vsa_is_fine_attention_and_gated_attention_over_means_of_cubes() -> None:
    order = tiled((5, 6, 8), CUBE)  # cubes of 64, 32, 16 and 8 tokens
    q, k, v, gate = (order.take(part) for part in draw(240, 4))
    scene = plain(Blocking.of(order, first_frame=False, neighbours=-1), 0.3)
    vsa = Vsa()
    lists, coarse = vsa.split(q, k, v, scene)
    assert lists.count_BNQ.unique().tolist() == [math.ceil(0.3 * 8)]
    lengths = order.cut().length_G.tolist()
    assert sorted(set(lengths)) == [8, 16, 32, 64]
    places = [range(64 * cube, 64 * cube + length) for cube, length in enumerate(lengths)]
    mask = lists.mask(8)
    fine = torch.zeros_like(q)
    wanted = torch.zeros_like(q, dtype=torch.float64)
    for b in range(2):
        for n in range(HEADS):
            means = [[part[b, list(at), n].double().mean(0) for at in places] for part in (q, k, v)]
            for cube, own in enumerate(places):
                scores = torch.stack([means[0][cube] @ key for key in means[1]]) / math.sqrt(WIDTH)
                top = scores.argsort(descending=True)[:3].tolist()
                assert mask[b, n, cube].nonzero().flatten().tolist() == sorted(top)
                seen = [place for other in top for place in places[other]]
                logits = q[b, list(own), n].double() @ k[b, seen, n].double().mT / math.sqrt(WIDTH)
                mixed = logits.softmax(-1) @ v[b, seen, n].double()
                fine[b, list(own), n] = mixed.float()
                of_means = scores.softmax(-1) @ torch.stack(means[2])
                wanted[b, list(own), n] = mixed + gate[b, list(own), n].double() * of_means
    found = order.join(vsa.mix(fine, coarse, gate, scene))
    assert torch.allclose(found.double(), order.join(wanted), atol=1e-5)
    half = vsa.mix(fine.bfloat16(), coarse, gate.bfloat16(), scene)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(order.join(half).double(), order.join(wanted), atol=0.05)
    routed = vsa.route(q, k, v, scene, layer=0, heads=range(HEADS))
    assert torch.equal(routed.mask(8), mask)


def test_sla_adds_projected_linear_attention() -> None:
    q, k, v = draw(60, 3)
    sparse = draw(60, 4)[3]
    weight, bias = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1)), torch.arange(8.0)
    sla = Sla()
    found = sla.mix(sparse, sla.linear(q, k, v), weight, bias)
    for b in range(2):
        for n in range(HEADS):
            features_q, features_k = (part[b, :, n].double().softmax(-1) for part in (q, k))
            for token in range(60):
                alike = features_k @ features_q[token]
                mixed = (alike[:, None] * v[b, :, n].double()).sum(0) / (1e-5 + alike.sum())
                wanted = sparse[b, token, n].double() + weight.double() @ mixed + bias
                assert torch.allclose(found[b, token, n].double(), wanted, atol=1e-5)
    zero = sla.mix(sparse, sla.linear(q, k, v), torch.zeros(WIDTH, WIDTH), torch.zeros(WIDTH))
    assert torch.equal(zero, sparse)  # as a checkpoint begins its training


def test_sla_rounds_the_number_of_blocks_down() -> None:
    q, k, v = draw(240, 3)
    blocking = Blocking.of(frame_major((5, 6, 8), 16), first_frame=False, neighbours=-1)
    for density, count in ((0.1, 1), (0.19, 2), (0.2, 3), (0.01, 1)):
        lists = Sla().route(q, k, v, plain(blocking, density), layer=0, heads=range(HEADS))
        assert lists.count_BNQ.unique().tolist() == [count]
    with pytest.raises(ValueError, match="sla takes a density"):
        Sla().route(q, k, v, Scene(blocking=blocking, mass=0.5), layer=0, heads=range(HEADS))


def test_sla_chooses_as_if_the_mean_key_were_taken_off() -> None:
    q, k, v = draw(240, 3)
    blocking = Blocking.of(frame_major((5, 6, 8), 16), first_frame=False, neighbours=-1)
    lists = Sla().route(q, k, v, plain(blocking, 0.4), layer=0, heads=range(HEADS))
    smooth = k.double() - k.double().mean(1, keepdim=True)
    means = [part.view(2, 15, 16, HEADS, WIDTH).double().mean(2).transpose(1, 2) for part in (q.double(), smooth)]
    top = (means[0] @ means[1].mT).topk(6, dim=-1).indices
    wanted = torch.zeros(2, HEADS, 15, 15, dtype=torch.bool).scatter_(-1, top, value=True)
    assert torch.equal(lists.mask(15), wanted)


def test_names_of_checkpoint_tensors() -> None:
    assert VsaNames.of(3) == VsaNames(weight="blocks.3.to_gate_compress.weight", bias="blocks.3.to_gate_compress.bias")
    assert [names.weight for names in SlaNames.candidates(7)] == [
        "blocks.7.attn1.attn_impl.proj_l.weight",
        "blocks.7.self_attn.attn_op.local_attn.proj_l.weight",
    ]
