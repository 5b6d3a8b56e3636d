"""One evaluation of the Wan transformer in pieces; see `reelray.workers.models.stages.Forward`.

Shape suffixes: B batch, S tokens, C channels, G groups of tokens with one timestep, T latent frames, H/W latent
height/width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reelray.workers.models.attention_op import AttentionOp
from reelray.workers.models.sharding import TokenShard
from reelray.workers.models.stages import TokenFacts
from reelray.workers.models.wan.block import BlockInputs
from reelray.workers.models.wan.embeddings import cut_patches, join_patches
from reelray.workers.models.wan.rope import Positions, Rotation
from reelray.workers.models.wan.text_context import Context

if TYPE_CHECKING:
    from reelray.workers.models.wan.transformer import WanTransformer


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    """What all layers read.

    Args:
        time_BGC: Embedded timesteps.
        inputs: Of the blocks.
    """

    time_BGC: Tensor
    inputs: BlockInputs


@dataclass(kw_only=True, eq=False)
class WanForward:
    """Implements `Forward`. Nothing is computed before it is asked for, so that all of it can be recorded.

    Args:
        transformer: The weights.
        latents_BCTHW: Noisy latents of the whole window.
        timestep_BG: One timestep per group of tokens.
        positions: Where the frames stand.
        text: Context of the prompts.
        image: Context of the images of an i2v model.
        attention: Self-attention.
        shard: The tokens of the window that are here.
        take: Cuts the tokens of this forward out of those; None where it is all of them.
    """

    transformer: "WanTransformer"
    latents_BCTHW: Tensor
    timestep_BG: Tensor
    positions: Positions
    text: Context
    image: Context | None
    attention: AttentionOp
    shard: TokenShard
    take: Callable[[Tensor], Tensor] | None = None
    _ready: _Ready | None = field(default=None, init=False, repr=False)

    @property
    def layers(self) -> int:
        """See `Forward`."""
        return self.transformer.config.num_layers

    @property
    def grid(self) -> tuple[int, int]:
        """See `Forward`."""
        _, _, frames, height, width = self.latents_BCTHW.shape
        _, ph, pw = self.transformer.config.patch_size
        return frames, (height // ph) * (width // pw)

    @property
    def stream(self) -> TokenFacts:
        """See `Forward`."""
        return self._facts(self._tokens, self.transformer.config.dim)

    @property
    def predicted(self) -> TokenFacts:
        """See `Forward`."""
        config, (frames, places) = self.transformer.config, self.grid
        tokens = frames * places if self.take is None else self._tokens
        return self._facts(tokens, config.out_channels * math.prod(config.patch_size))

    @property
    def variables(self) -> tuple[Tensor, ...]:
        """See `Forward`."""
        return self.latents_BCTHW, self.timestep_BG, self.positions.frames

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """See `Forward`."""
        return (*self.text.tensors, *(() if self.image is None else self.image.tensors))

    def reading(self, variables: Sequence[Tensor], constants: Sequence[Tensor]) -> "WanForward":
        """See `Forward`."""
        latents_BCTHW, timestep_BG, frames_T = variables
        text, count = self.text, len(self.text.tensors)
        return replace(
            self,
            latents_BCTHW=latents_BCTHW,
            timestep_BG=timestep_BG,
            positions=replace(self.positions, frames=frames_T),
            text=text.holding(constants[:count]),
            image=None if self.image is None else self.image.holding(constants[count:]),
        )

    def cut(self, take: Callable[[Tensor], Tensor] | None, attention: AttentionOp) -> "WanForward":
        """See `Forward`; a cut forward is not cut again."""
        assert self.take is None
        return replace(self, attention=attention, take=take)

    def embed(self) -> Tensor:
        """See `Forward`."""
        transformer = self.transformer
        cells_BSC = self.shard.take(
            cut_patches(self.latents_BCTHW.to(transformer.dtype), transformer.config.patch_size)
        )
        return transformer.embed_patches(cells_BSC if self.take is None else self.take(cells_BSC))

    def run(self, x_BSC: Tensor, layers: range) -> Tensor:
        """See `Forward`.

        Raises:
            ValueError: A layer was not kept.
        """
        inputs, due = self.inputs, None
        for layer in layers:
            x_BSC, due = self.transformer.block(layer)(x_BSC, inputs, layer, due)
        return x_BSC if due is None else self.transformer.ops.add_gated(x_BSC, *due)

    @property
    def inputs(self) -> BlockInputs:
        """What its blocks read besides tokens."""
        return self._prepare().inputs

    def predict(self, x_BSC: Tensor) -> Tensor:
        """See `Forward`; of a whole window all who share its tokens must call this."""
        patches_BSC = self.transformer.predict(x_BSC, self._prepare().time_BGC)
        return self.shard.join(patches_BSC) if self.take is None else patches_BSC

    def assemble(self, patches_BSC: Tensor) -> Tensor:
        """See `Forward`."""
        _, _, frames, height, width = self.latents_BCTHW.shape
        return join_patches(patches_BSC, self.transformer.config.patch_size, (frames, height, width))

    def _prepare(self) -> "_Ready":
        """Compute what all layers read, once."""
        if self._ready is None:
            transformer, rotation = self.transformer, self._rotate()
            time_BGC, modulation_BG6C = transformer.condition_embedder.embed_time(self.timestep_BG, transformer.dtype)
            inputs = BlockInputs(
                modulation=modulation_BG6C,
                rotation=rotation,
                text=self.text,
                image=self.image,
                attention=self.attention,
            )
            self._ready = _Ready(time_BGC=time_BGC, inputs=inputs)
        return self._ready

    def _rotate(self) -> Rotation:
        """Angles of the tokens of this forward."""
        _, _, _, height, width = self.latents_BCTHW.shape
        _, ph, pw = self.transformer.config.patch_size
        whole = self.transformer.rope(self.positions, height // ph, width // pw)
        cos_BSP, sin_BSP = self.shard.take(whole.cos), self.shard.take(whole.sin)
        if self.take is not None:
            cos_BSP, sin_BSP = self.take(cos_BSP), self.take(sin_BSP)
        return Rotation(cos=cos_BSP, sin=sin_BSP)

    @property
    def _tokens(self) -> int:
        frames, places = self.grid
        held = self.shard.take(torch.empty(1, frames * places, 1, device="meta"))
        return (held if self.take is None else self.take(held)).shape[1]

    def _facts(self, tokens: int, channels: int) -> TokenFacts:
        transformer = self.transformer
        shape = (self.latents_BCTHW.shape[0], tokens, channels)
        return TokenFacts(shape=shape, dtype=transformer.dtype, device=transformer.device)
