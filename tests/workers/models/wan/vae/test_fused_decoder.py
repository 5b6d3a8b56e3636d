"""The GPU decoder's structure against the module's, on the reference kernels in fp32, and its kernels on a GPU."""

import pytest
import torch

from reelray.workers.models.wan.vae import WanVae, WanVaeConfig
from reelray.workers.models.wan.vae.fused_decoder import FusedDecoder


def build(**sizes: int) -> WanVae:
    torch.manual_seed(0)
    vae = WanVae(WanVaeConfig(**{"base_dim": 8, "num_res_blocks": 1, **sizes})).eval().requires_grad_(False)
    for name, parameter in vae.named_parameters():
        if name.endswith("gamma"):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return vae


@pytest.mark.parametrize("cuts", [[1, 1, 1, 1, 1], [1, 4], [3, 2], [5]])
def test_equals_the_module_with_equal_slots(cuts):
    vae = build()
    fused = FusedDecoder(vae.post_quant_conv, vae.decoder)
    latents = torch.randn(2, 16, 5, 4, 6)
    wanted, slots = vae.decode_first(latents)
    kept, parts = None, []
    for part in latents.split(cuts, dim=2):
        video, kept = fused(part, kept)
        parts.append(video)
    torch.testing.assert_close(torch.cat(parts, dim=2), wanted, atol=2e-5, rtol=0)
    assert len(kept) == len(slots)
    for mine, theirs in zip(kept, slots, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.gpu
def test_bf16_on_a_gpu_stays_near_fp32_on_the_cpu():
    vae = build(base_dim=96)
    latents = torch.randn(1, 16, 5, 12, 20)
    wanted = vae.decode_whole(latents)
    state = vae.to_inference("cuda").new_decode_state()
    assert vae._fused is not None
    found = torch.cat([vae.decode(part.cuda(), state) for part in latents.split([1, 2, 2], dim=2)], dim=2)
    assert (found.cpu().float() - wanted).norm() / wanted.norm() < 0.02
