"""A whole model with weights drawn at random, as the ranks of a gang load it: benchmarks need no checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from reelray.proto.residency import Residency
from reelray.workers.bench.case import BenchSource
from reelray.workers.models.api import VideoModel
from reelray.workers.models.registry import preset_source
from reelray.workers.models.wan.bench_model import draw_transformer, draw_vae
from reelray.workers.models.wan.block_ops import choose_ops
from reelray.workers.models.wan.checkpoint import GPU_DECODE_PIXELS
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.description import add_preview
from reelray.workers.models.wan.dtypes import choose_dtypes
from reelray.workers.models.wan.model import WanModel, WanParts
from reelray.workers.models.wan.taehv.config import TaehvConfig
from reelray.workers.models.wan.taehv.model import Taehv
from reelray.workers.models.wan.vae import WanVaeConfig
from reelray.workers.recipes.presets import Preset, load_presets

if TYPE_CHECKING:
    from reelray.workers.models.wan.text import TextEncoder

SEED = 3


class DrawnText:
    """Stands where the text encoder would: the same embeddings for every prompt.

    Args:
        text_BSC: All slots of one prompt.
    """

    def __init__(self, text_BSC: Tensor) -> None:
        self._text_BSC = text_BSC

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """See `TextEncoder`."""
        return self._text_BSC.expand(len(prompts), -1, -1)


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnLoader:
    """Implements `ModelLoader`.

    Args:
        preset: Name of the preset whose model is drawn.
        device: ``cpu`` or ``cuda``.
        tiny: Shrink every network.
        layers: Of a tiny transformer; None takes what the shrunk one has.
        preview: Draw a tiny decoder beside the full one.
    """

    preset: str
    device: str
    tiny: bool = False
    layers: int | None = None
    preview: bool = False

    @property
    def recipe_preset(self) -> Preset:
        """The preset."""
        return next(preset for preset in load_presets() if preset.recipe.name == self.preset)

    @property
    def source(self) -> BenchSource:
        """What is drawn."""
        source = preset_source(self.recipe_preset, tiny=self.tiny)
        if self.layers is None:
            return source
        transformer = {**source.transformer, "num_layers": self.layers}
        return replace(source, transformer=transformer, facts=replace(source.facts, layers=self.layers))

    def __call__(self) -> VideoModel:
        """Draw it."""
        source = self.source
        device = torch.device("cuda", torch.cuda.current_device()) if self.device == "cuda" else torch.device("cpu")
        dtypes = choose_dtypes(device, None, None)
        config = WanConfig.from_diffusers(source.transformer)
        transformer = draw_transformer(config, device, dtypes.transformer, seed=SEED)
        transformer.use_ops(choose_ops(device))
        vae = draw_vae(WanVaeConfig.from_diffusers(source.vae), seed=SEED).to_inference(device, dtypes.vae)
        generator = torch.Generator().manual_seed(SEED)
        text_BSC = torch.randn(1, source.facts.text_tokens, config.text_dim, generator=generator)
        text = cast("TextEncoder", DrawnText(text_BSC.to(device, dtypes.text)))
        preview = draw_preview(vae.config.z_dim, device, dtypes.vae) if self.preview else None
        parts = WanParts(transformer=transformer, vae=vae, text_encoder=text, clip=None, preview=preview)
        facts = add_preview(source.facts) if self.preview else source.facts
        facts = replace(facts, decode_pixels=GPU_DECODE_PIXELS) if device.type == "cuda" else facts
        return WanModel(facts=facts, parts=parts, digest=f"drawn {self.preset}", residency=Residency())


def draw_preview(latent_channels: int, device: torch.device, dtype: torch.dtype) -> Taehv:
    """A tiny decoder of the published size, drawn on the CPU: the same on every rank."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return Taehv(TaehvConfig(latent_channels=latent_channels)).to_inference(device, dtype)
