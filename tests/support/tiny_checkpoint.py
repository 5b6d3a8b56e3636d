"""A complete Wan checkpoint of random weights, small enough to write and load in a second.

The folder has the diffusers layout, so that `WanPipeline.from_pretrained` loads it and serves as the oracle. Norm
weights and biases are random too: a forward that forgets one of them gives another picture.
"""

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import yaml
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

TEXT_TOKENS = 32
I2V_TEXT_TOKENS = 512  # diffusers cuts the image tokens of an i2v model off in front of 512 text slots, always
TEXT_DIM = 24
IMAGE_DIM = 20
HEADS = 2
HEAD_DIM = 16
LAYERS = 2
LATENT_CHANNELS = 16
WORDS = ("red", "green", "blue", "circle", "square", "moves", "left", "right", "on", "background", "a", "the")

Task = Literal["t2v", "i2v"]
Module = TypeVar("Module", bound=nn.Module)


def write_tiny_checkpoint(
    folder: Path, *, task: Task = "t2v", seed: int = 0, manifest: bool = True, shards: int = 1
) -> Path:
    """Write transformer, VAE, text encoder, tokenizer and scheduler under `folder`.

    Args:
        folder: Created when missing.
        task: ``i2v`` adds a CLIP image encoder and 20 more input channels.
        seed: Seed of the random weights.
        manifest: Write `manifest.yaml` beside the diffusers files.
        shards: Files the transformer is spread over.

    Returns:
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = randomise(build_transformer(task))
        size = sum(p.numel() * 4 for p in transformer.parameters())
        transformer.save_pretrained(folder / "transformer", max_shard_size=size + 1 if shards == 1 else size // shards)
        randomise(build_vae()).save_pretrained(folder / "vae")
        randomise(build_text_encoder()).save_pretrained(folder / "text_encoder")
        if task == "i2v":
            randomise(build_image_encoder()).save_pretrained(folder / "image_encoder")
            write_image_processor(folder / "image_processor")
    build_tokenizer().save_pretrained(folder / "tokenizer")
    build_scheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(model_index(task), indent=2))
    if manifest:
        (folder / "manifest.yaml").write_text(yaml.safe_dump(tiny_manifest(task), sort_keys=False))
    return folder


def build_transformer(task: Task = "t2v") -> WanTransformer3DModel:
    i2v = task == "i2v"
    return WanTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        in_channels=LATENT_CHANNELS + 20 if i2v else LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=48,
        num_layers=LAYERS,
        rope_max_seq_len=64,
        image_dim=IMAGE_DIM if i2v else None,
        added_kv_proj_dim=HEADS * HEAD_DIM if i2v else None,
    )


def build_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(base_dim=8, z_dim=LATENT_CHANNELS, num_res_blocks=1)


def build_text_encoder() -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(vocabulary()),
            d_model=TEXT_DIM,
            d_kv=8,
            num_heads=3,
            d_ff=40,
            num_layers=2,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )


def build_image_encoder() -> CLIPVisionModel:
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=IMAGE_DIM,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=28,
            patch_size=7,
            hidden_act="gelu",
        )
    )


def write_image_processor(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": 28},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 28, "width": 28},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config, indent=2))


def vocabulary() -> list[tuple[str, float]]:
    """Unigram pieces and scores: whole words first, then every printable ASCII character."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    words = [("▁" + word, -2.0) for word in WORDS]
    characters = [(chr(code), -6.0) for code in range(33, 127)]
    return [*special, *words, ("▁", -5.0), *characters]


def build_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram(vocabulary(), unk_id=2))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TEXT_TOKENS,
    )


def build_scheduler() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    )


def model_index(task: Task) -> dict[str, Any]:
    index: dict[str, Any] = {
        "_class_name": "WanPipeline" if task == "t2v" else "WanImageToVideoPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    if task == "i2v":
        index["image_encoder"] = ["transformers", "CLIPVisionModel"]
        index["image_processor"] = ["transformers", "CLIPImageProcessor"]
    return index


def tiny_manifest(task: Task) -> dict[str, Any]:
    """`manifest.yaml` as data: 3 UniPC steps with guidance at 32x32 pixels."""
    return {
        "name": f"tiny-{task}",
        "model": "wan",
        "task": task,
        "schedule": {"solver": "unipc", "steps": 3, "shift": 3.0, "prediction": "flow"},
        "guidance": {"scale": 4.0},
        "chunking": {"latent_frames": None},
        "defaults": {"width": 32, "height": 32, "frames": 9, "fps": 8, "negative_prompt": "blurry"},
        "text_tokens": I2V_TEXT_TOKENS if task == "i2v" else TEXT_TOKENS,
        "decoder": "wan_exact_stream",
        "licence": "Apache-2.0",
    }


@torch.no_grad()
def randomise(module: Module) -> Module:
    """Move norm weights and biases off their neutral start values; keeps every matrix as its library made it."""
    for name, parameter in module.named_parameters():
        if parameter.ndim <= 1 or parameter.numel() == max(parameter.shape):
            start = 1.0 if name.endswith(("weight", "gamma")) else 0.0
            parameter.copy_(start + 0.1 * torch.randn_like(parameter))
    return module.eval()
