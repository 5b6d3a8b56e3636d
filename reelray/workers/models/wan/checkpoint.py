"""Opens a Wan checkpoint folder: everything is checked before the first weight is read."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from reelray.proto.errors import CheckpointError, ResourceError
from reelray.proto.memory_rule import FirstFrame
from reelray.proto.model_facts import ModelFacts
from reelray.proto.recipe import Recipe
from reelray.proto.residency import Blocks, Encoder, Networks, Residency, WeightShare
from reelray.workers.models.absent import absent, is_here
from reelray.workers.models.wan.block_ops import choose_ops
from reelray.workers.models.wan.clip import ClipConfig, ClipVision, load_clip
from reelray.workers.models.wan.clip_original import load_original_clip
from reelray.workers.models.wan.composition import digest_layout
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.description import (
    add_preview,
    check_recipe,
    count_transformer,
    find_recipe,
    gather_facts,
    read_transformer_config,
)
from reelray.workers.models.wan.dtypes import Dtypes, choose_dtypes
from reelray.workers.models.wan.layout import Layout, find_layout
from reelray.workers.models.wan.model import WanModel, WanParts
from reelray.workers.models.wan.taehv.config import SPATIAL_RATIO, TEMPORAL_RATIO
from reelray.workers.models.wan.taehv.files import check_taehv_file, load_taehv
from reelray.workers.models.wan.taehv.model import Taehv
from reelray.workers.models.wan.text import TextEncoder, load_text_encoder
from reelray.workers.models.wan.transformer import WanTransformer
from reelray.workers.models.wan.umt5 import Umt5Config
from reelray.workers.models.wan.vae import WanVae, WanVaeConfig
from reelray.workers.models.wan.vae.model import decodes_several
from reelray.workers.models.wan.vae_names import rename_tensor
from reelray.workers.models.wan.weights import check_architecture, load_transformer
from reelray.workers.models.weight_loading import load_module
from reelray.workers.recipes.presets import read_json
from reelray.workers.recipes.weights_section import LoraSection
from reelray.workers.weights.lora import LoraFile

GPU_DECODE_PIXELS = 16_000_000  # four latent frames of 1280x720


@dataclass(frozen=True, kw_only=True, slots=True)
class _Placing:
    device: torch.device
    dtypes: Dtypes
    layers: range | None
    residency: Residency
    share: WeightShare | None
    networks: Networks
    preview: Path | None
    decodes: bool


def open_checkpoint(
    folder: Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    vae_dtype: torch.dtype | None = None,
    recipe: Recipe | None = None,
    compiled: bool = False,
    layers: range | None = None,
    residency: Residency | None = None,
    share: WeightShare | None = None,
    networks: Networks = Networks.ALL,
    preview: Path | None = None,
) -> WanModel:
    """Load a checkpoint as a model that is ready to denoise.

    Args:
        folder: diffusers layout, the original Wan 2.1 layout, or a manifest whose `weights` name such a base.
        device: Where everything computes.
        dtype: Dtype of transformer and text encoder; None chooses by device.
        vae_dtype: Dtype of the VAE; None means `dtype`, or a choice by device.
        recipe: Instead of the folder's own; `task` and `text_tokens` matter here.
        compiled: Compile the transformer's blocks; the first request of a new size then waits for the compiler.
        layers: Layers of the transformer to load, where other ranks have the others; None means all.
        residency: Where the weights are while they do not compute; all on the device by default.
        share: What this rank keeps of sharded blocks; `WanModel.use_weight_gather` is then to be called.
        networks: What is loaded; whoever reaches for the rest is told.
        preview: File of a tiny decoder; None takes the one beside the checkpoint's other parts, if there is one.

    Raises:
        UnknownModelError: There is no such folder.
        CheckpointError: The folder is not a Wan2.1 checkpoint, or lacks a part.
        ManifestError: `manifest.yaml` is wrong or does not fit the weights.
        WeightsError: A weight file is missing, damaged or does not fit.
        ResourceError: The weights do not fit the device.
        InputError: Blocks are to be sharded, and no other rank has them.
        ValueError: A dtype is neither float32 nor bfloat16, or the transformer has no such layers.
    """
    layout = find_layout(folder)
    recipe = recipe or find_recipe(layout)
    check_recipe(recipe, layout)
    configs = read_transformer_config(layout), _vae_config(layout), _text_config(layout)
    _check_configs(*configs, layout)
    place, parameters, digest = torch.device(device), count_transformer(layout), digest_layout(layout)
    placing = _Placing(
        device=place,
        dtypes=choose_dtypes(place, dtype, vae_dtype),
        layers=layers,
        residency=residency or Residency(),
        share=share,
        networks=_needed(networks, recipe),
        preview=preview or layout.preview,
        decodes=networks is not Networks.DENOISING,
    )
    parts = _load_parts(layout, configs, placing, text_tokens=recipe.text_tokens, digest=digest)
    if is_here(parts.transformer):
        _choose_arithmetic(parts.transformer, compiled=compiled)
    facts = _gather_facts(layout, recipe, parameters, placing, parts)
    at = place, placing.dtypes.transformer
    return WanModel(facts=facts, parts=parts, digest=digest, residency=placing.residency, at=at)


def _gather_facts(layout: Layout, recipe: Recipe, parameters: int, placing: _Placing, parts: WanParts) -> ModelFacts:
    facts = gather_facts(layout, recipe, parameters)
    facts = facts if parts.preview is None else add_preview(facts)
    several = decodes_several(placing.device, placing.dtypes.vae)  # whoever decodes
    return replace(facts, decode_pixels=GPU_DECODE_PIXELS) if several else facts


def _needed(networks: Networks, recipe: Recipe) -> Networks:
    """Whoever remembers pictures that are coded anew has use for the VAE as well."""
    recodes = recipe.memory is not None and recipe.memory.first_frame is FirstFrame.CODED_ANEW
    return Networks.ALL if recodes and networks is Networks.DENOISING else networks


def _choose_arithmetic(transformer: WanTransformer, *, compiled: bool) -> None:
    """The one place that says how a transformer computes; the VAE says it for itself in `WanVae.to_inference`."""
    transformer.use_ops(choose_ops(transformer.device))
    if compiled:
        transformer.compile_blocks()


def _too_large(layout: Layout, device: torch.device, residency: Residency, free: int) -> ResourceError:
    smaller = Residency(blocks=Blocks.OFFLOADED, encoder=Encoder.RELEASED)
    advice = "" if residency == smaller else f"; try --weights {smaller.blocks} --encoder {smaller.encoder}"
    return ResourceError(
        f"{layout.folder}: its {layout.weight_bytes / 2**30:.1f} GiB of weights do not fit when they are {residency}; "
        f"{device} had {free / 2**30:.1f} GiB free{advice}"
    )


def _vae_config(layout: Layout) -> WanVaeConfig:
    if layout.kind == "original":
        return WanVaeConfig()
    file = layout.complete.folder / "vae" / "config.json"
    try:
        return WanVaeConfig.from_diffusers(read_json(file))
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error.message.removeprefix('vae config: ')}") from error


def _text_config(layout: Layout) -> Umt5Config:
    if layout.kind == "original":
        return Umt5Config()
    return Umt5Config.from_transformers(read_json(layout.complete.folder / "text_encoder" / "config.json"))


def _check_configs(config: WanConfig, vae: WanVaeConfig, text: Umt5Config, layout: Layout) -> None:
    condition = vae.temporal_ratio + vae.z_dim if layout.task == "i2v" else 0
    for what, value, wanted, why in (
        ("out_channels", config.out_channels, vae.z_dim, "the VAE's z_dim"),
        ("in_channels", config.in_channels, vae.z_dim + condition, "noise and condition together"),
        ("text_dim", config.text_dim, text.d_model, "the text encoder's d_model"),
    ):
        if value != wanted:
            raise CheckpointError(f"{layout.folder}: the transformer's {what} is {value}; {why} need {wanted}")


def _load_parts(
    layout: Layout,
    configs: tuple[WanConfig, WanVaeConfig, Umt5Config],
    placing: _Placing,
    *,
    text_tokens: int,
    digest: str,
) -> WanParts:
    config, vae_config, text_config = configs
    device, dtypes = placing.device, placing.dtypes
    released = placing.residency.encoder is Encoder.RELEASED
    denoises = placing.networks is not Networks.DECODING
    has_vae = placing.networks is not Networks.DENOISING or layout.task == "i2v"  # which encodes the first frame
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0  # before anything is loaded
    try:
        preview = _load_preview(placing, vae_config)  # first of all, because its file may be wrong
        return WanParts(
            preview=preview,
            transformer=_load_transformer(layout, config, placing) if denoises else absent(WanTransformer),
            vae=_load_vae(layout, vae_config, device, dtypes) if has_vae else absent(WanVae),
            text_encoder=load_text_encoder(
                layout.weights["text_encoder"],
                layout.tokenizer,
                text_config,
                device=device,
                dtype=dtypes.text,
                text_tokens=text_tokens,
                digest=digest,
                released=released,
            )
            if denoises
            else absent(TextEncoder),
            clip=_load_clip(layout, device, dtypes, released=released) if denoises else None,
        )
    except torch.OutOfMemoryError as error:
        raise _too_large(layout, device, placing.residency, free) from error


def _load_transformer(layout: Layout, config: WanConfig, placing: _Placing) -> WanTransformer:
    section, path, key, lora = layout.section, layout.transformer, None, None
    if section is not None:
        files = layout.weights["transformer"]
        path, key = files[0] if len(files) == 1 else files[0].parent, section.key
        if section.transformer is not None:
            check_architecture(path, key, config, base=section.base)
        lora = None if section.lora is None else _name_lora(section.lora)
    return load_transformer(
        path,
        placing.device,
        placing.dtypes.transformer,
        weights_key=key,
        lora=lora,
        config=config,
        layers=placing.layers,
        blocks=placing.residency.blocks,
        share=placing.share,
    )


def _name_lora(lora: LoraSection) -> LoraFile:
    return LoraFile(path=lora.path, weights_key=lora.key, alpha=lora.alpha, strength=lora.strength)


def _load_vae(layout: Layout, config: WanVaeConfig, device: torch.device, dtypes: Dtypes) -> WanVae:
    vae = load_module(lambda: WanVae(config), layout.weights["vae"], rename_tensor, device=device, dtype=dtypes.vae)
    for name in ("latents_mean", "latents_std"):  # buffers: not in the files, and empty on the meta device
        values = torch.tensor(getattr(config, name), dtype=torch.float32, device=device)
        vae.register_buffer(name, values.view(1, -1, 1, 1, 1), persistent=False)
    return vae.to_inference(device, dtypes.vae)


def _load_preview(placing: _Placing, vae: WanVaeConfig) -> Taehv | None:
    if placing.preview is None:
        return None
    if (vae.spatial_ratio, vae.temporal_ratio) != (SPATIAL_RATIO, TEMPORAL_RATIO):
        raise CheckpointError(
            f"{placing.preview}: a tiny decoder makes {TEMPORAL_RATIO} frames of {SPATIAL_RATIO}x{SPATIAL_RATIO} "
            f"pixels of a latent, and this model's VAE {vae.temporal_ratio} of {vae.spatial_ratio}x{vae.spatial_ratio}"
        )
    if not placing.decodes:  # whoever does reads the file, and finds what is wrong in it
        check_taehv_file(placing.preview)
        return absent(Taehv)
    return load_taehv(placing.preview, latent_channels=vae.z_dim, device=placing.device, dtype=placing.dtypes.vae)


def _load_clip(layout: Layout, device: torch.device, dtypes: Dtypes, *, released: bool) -> ClipVision | None:
    if "image_encoder" not in layout.weights:
        return None
    if layout.kind == "original":
        config = ClipConfig(framing="stretch")
        file = layout.weights["image_encoder"][0]
        return load_original_clip(file, config, device=device, dtype=dtypes.image, released=released)
    config = ClipConfig.from_transformers(read_json(layout.complete.folder / "image_encoder" / "config.json"))
    files = layout.weights["image_encoder"]
    return load_clip(files, config, device=device, dtype=dtypes.image, released=released)
