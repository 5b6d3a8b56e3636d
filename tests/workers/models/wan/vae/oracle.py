"""diffusers' AutoencoderKLWan on small random weights, beside ours with the same weights."""

from typing import Any

import torch
from diffusers import AutoencoderKLWan

from reelray.workers.models.wan.vae import WanVae, WanVaeConfig

SMALL: dict[str, Any] = {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1}


def make_pair(**changes: Any) -> tuple[WanVae, AutoencoderKLWan]:
    """Random biases and gammas too: a default initialisation would hide a forgotten one."""
    torch.manual_seed(7)
    oracle = AutoencoderKLWan(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            if name.endswith(("bias", "gamma")):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    ours = WanVae(WanVaeConfig.from_diffusers(dict(oracle.config))).eval()
    ours.load_state_dict(oracle.state_dict(), strict=True)
    return ours, oracle
