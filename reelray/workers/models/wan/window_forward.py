"""One evaluation of the Wan transformer in pieces; see `reelray.workers.models.stages.Forward`.

Shape suffixes: B batch, S tokens, C channels, G groups of tokens with one timestep, T latent frames, H/W latent
height/width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from reelray.workers.models.attention_op import AttentionOp
from reelray.workers.models.sharding import TokenShard
from reelray.workers.models.stages import TokenFacts
from reelray.workers.models.wan.block import BlockInputs
from reelray.workers.models.wan.embeddings import cut_patches, join_patches
from reelray.workers.models.wan.rope import Rotation

if TYPE_CHECKING:
    from reelray.workers.models.wan.transformer import WanTransformer


@dataclass(frozen=True, kw_only=True, slots=True)
class WanForward:
    """Implements `Forward`.

    Args:
        transformer: The weights.
        latents_BCTHW: Noisy latents of the whole window.
        time_BGC: Embedded timesteps.
        inputs: What every block reads; its rotation is that of the tokens here.
        shard: The tokens of the window that are here.
        take: Cuts the tokens of this forward out of those; None where it is all of them.
    """

    transformer: "WanTransformer"
    latents_BCTHW: Tensor
    time_BGC: Tensor
    inputs: BlockInputs
    shard: TokenShard
    take: Callable[[Tensor], Tensor] | None = None

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
    def attention(self) -> AttentionOp:
        """See `Forward`."""
        return self.inputs.attention

    @property
    def variables(self) -> tuple[Tensor, ...]:
        """See `Forward`."""
        inputs = self.inputs
        return (self.latents_BCTHW, self.time_BGC, inputs.modulation, inputs.rotation.cos, inputs.rotation.sin)

    @property
    def constants(self) -> tuple[Tensor, ...]:
        """See `Forward`."""
        image = self.inputs.image
        return (*self.inputs.text.tensors, *(() if image is None else image.tensors))

    def reading(self, variables: Sequence[Tensor], constants: Sequence[Tensor]) -> "WanForward":
        """See `Forward`."""
        latents_BCTHW, time_BGC, modulation_BG6C, cos_BSP, sin_BSP = variables
        text, image = self.inputs.text, self.inputs.image
        inputs = replace(
            self.inputs,
            modulation=modulation_BG6C,
            rotation=Rotation(cos=cos_BSP, sin=sin_BSP),
            text=text.holding(constants[: len(text.tensors)]),
            image=None if image is None else image.holding(constants[len(text.tensors) :]),
        )
        return replace(self, latents_BCTHW=latents_BCTHW, time_BGC=time_BGC, inputs=inputs)

    def cut(self, take: Callable[[Tensor], Tensor] | None, attention: AttentionOp) -> "WanForward":
        """See `Forward`; a cut forward is not cut again."""
        assert self.take is None
        rotation = self.inputs.rotation
        if take is not None:
            rotation = Rotation(cos=take(rotation.cos), sin=take(rotation.sin))
        return replace(self, inputs=replace(self.inputs, rotation=rotation, attention=attention), take=take)

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
        for layer in layers:
            x_BSC = self.transformer.block(layer)(x_BSC, self.inputs, layer)
        return x_BSC

    def predict(self, x_BSC: Tensor) -> Tensor:
        """See `Forward`; of a whole window all who share its tokens must call this."""
        patches_BSC = self.transformer.predict(x_BSC, self.time_BGC)
        return self.shard.join(patches_BSC) if self.take is None else patches_BSC

    def assemble(self, patches_BSC: Tensor) -> Tensor:
        """See `Forward`."""
        _, _, frames, height, width = self.latents_BCTHW.shape
        return join_patches(patches_BSC, self.transformer.config.patch_size, (frames, height, width))

    @property
    def _tokens(self) -> int:
        return self.inputs.rotation.cos.shape[1]

    def _facts(self, tokens: int, channels: int) -> TokenFacts:
        transformer = self.transformer
        shape = (self.latents_BCTHW.shape[0], tokens, channels)
        return TokenFacts(shape=shape, dtype=transformer.dtype, device=transformer.device)
