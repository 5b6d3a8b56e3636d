"""Sizes told from configurations are those of the networks."""

from pathlib import Path

import pytest
import torch

from reelray.workers.models.registry import describe_checkpoint, describe_preset, measure_checkpoint
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.sizes import count_transformer
from reelray.workers.models.wan.transformer import WanTransformer
from reelray.workers.models.wan.vae import WanVae, WanVaeConfig
from reelray.workers.models.wan.vae.footprint import estimate_decode_bytes
from reelray.workers.models.wan.vae_sizes import measure_decoder
from reelray.workers.recipes.presets import load_presets

PRESETS = {preset.recipe.name: preset for preset in load_presets()}
SMALL_VAE = {"base_dim": 16, "num_res_blocks": 1}


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_those_of_the_network(name):
    config = WanConfig.from_diffusers(PRESETS[name].transformer)
    with torch.device("meta"):
        model = WanTransformer(config)
    assert count_transformer(config) == sum(p.numel() for p in model.parameters())
    assert describe_preset(PRESETS[name])[0].parameters == count_transformer(config)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_planned_as_the_task_it_is_made_for(name):
    facts, sizes = describe_preset(PRESETS[name])
    wants_image = facts.task == "i2v"
    assert (facts.task, facts.latent_channels) == (PRESETS[name].recipe.task, 16)
    assert (sizes.image_tokens > 0, sizes.image_encoder_parameters > 0) == (wants_image, wants_image)
    assert facts.dim == 128 * sizes.heads


@pytest.mark.parametrize("config", [{}, SMALL_VAE], ids=["wan", "small"])
def test_decoder_parameters_are_those_of_the_network(config):
    with torch.device("meta"):
        vae = WanVae(WanVaeConfig(**config))
    counted = sum(p.numel() for p in vae.decoder.parameters())
    assert measure_decoder(config).parameters == pytest.approx(counted, rel=0.01)  # biases and gains are left out


@pytest.mark.parametrize("config", [{}, SMALL_VAE], ids=["wan", "small"])
@pytest.mark.parametrize("latent_frames", [1, 4])
def test_decode_bytes_are_those_of_the_footprint(config, latent_frames):
    sizes = measure_decoder(config)
    mine = 60 * 104 * (sizes.state_bytes + latent_frames * sizes.frame_bytes)
    theirs = estimate_decode_bytes(
        WanVaeConfig(**config), 480, 832, latent_frames, itemsize=2, latents_per_call=latent_frames
    )
    assert mine == theirs


def test_decode_products_are_those_counted_by_hand():
    # 6.78 tera multiply-adds per latent frame at 832x480, of which 0.03 are attention; 4.35 TFLOP for the first.
    sizes = measure_decoder({})
    assert sizes.flops * 60 * 104 == pytest.approx(13.5e12, rel=0.005)
    assert sizes.first_flops * 60 * 104 == pytest.approx(4.35e12, rel=0.02)


def test_a_folder_tells_its_own(tiny_t2v):
    sizes, described = measure_checkpoint(tiny_t2v), describe_checkpoint(tiny_t2v)
    assert sizes.text_encoder_parameters == described.parameters["text_encoder"]
    assert sizes.decoder_parameters < described.parameters["vae"]
    assert sizes.heads * 2 <= described.facts.dim


def test_the_embedded_model_tells_its_own():
    folder = Path(__file__).parents[4] / "reelray" / "checkpoints" / "sprites"
    sizes = measure_checkpoint(folder)
    assert (sizes.heads, sizes.ffn_dim) == (4, 1024)
    config = WanConfig(
        num_attention_heads=4, attention_head_dim=64, ffn_dim=1024, num_layers=8, text_dim=192, in_channels=16
    )
    assert count_transformer(config) == describe_checkpoint(folder).facts.parameters
