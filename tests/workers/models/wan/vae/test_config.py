from typing import Any

import pytest
from diffusers import AutoencoderKLWan

from reelray.proto.errors import CheckpointError
from reelray.workers.models.wan.vae import WanVae, WanVaeConfig
from tests.workers.models.wan.vae.oracle import make_pair


def test_defaults_are_those_of_wan21() -> None:
    assert WanVaeConfig.from_diffusers({}) == WanVaeConfig()
    assert (WanVaeConfig().spatial_ratio, WanVaeConfig().temporal_ratio) == (8, 4)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"num_res_blocks": 2, "decoder_base_dim": 16},
        {"attn_scales": [0.5]},
        {"dim_mult": [1, 2], "temperal_downsample": [True], "scale_factor_temporal": 2, "scale_factor_spatial": 2},
    ],
)
def test_names_and_shapes_are_those_of_diffusers(facts: dict[str, Any]) -> None:
    ours, oracle = make_pair(**facts)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in oracle.state_dict().items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_residual": True}, "is_residual=True is not a Wan2.1 VAE"),
        ({"patch_size": 2}, "patch_size=2"),
        ({"colour": 1}, r"unknown fields \['colour'\]"),
        ({"_class_name": "AutoencoderKL"}, "AutoencoderKLWan"),
        ({"z_dim": 4}, "latents_mean"),
        ({"temperal_downsample": [True]}, "temperal_downsample"),
        ({"scale_factor_temporal": 8}, "the stages give 4"),
        ({"base_dim": 0}, "base_dim=0"),
        ({"base_dim": "wide"}, "vae config"),
        ({"latents_std": [0.0] * 16}, "must be positive"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_what_is_not_a_wan21_vae_is_refused(changes: dict[str, Any], message: str) -> None:
    raw = {"_class_name": "AutoencoderKLWan", "_diffusers_version": "0.42.1", "base_dim": 8, **changes}
    with pytest.raises(CheckpointError, match=message):
        WanVaeConfig.from_diffusers(raw)


def test_a_new_model_starts_as_diffusers_does() -> None:
    """Same default initialisation: the spread of every weight agrees."""
    ours = WanVae(WanVaeConfig(base_dim=16))
    oracle = AutoencoderKLWan(base_dim=16)
    theirs = dict(oracle.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.numel() > 2000:
            assert parameter.std().item() == pytest.approx(theirs[name].std().item(), rel=0.1)
