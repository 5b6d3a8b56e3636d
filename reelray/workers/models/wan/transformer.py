"""The Wan2.1 transformer. It never asks how many ranks there are or what a token may attend.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width, S tokens, K context tokens, G groups of
tokens with one timestep.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reelray.workers.models.attention_op import AttentionOp
from reelray.workers.models.sharding import TokenShard, WholeWindow
from reelray.workers.models.stages import WholeModel
from reelray.workers.models.wan.block import WanBlock
from reelray.workers.models.wan.block_ops import TORCH_OPS, BlockOps
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.embeddings import ConditionEmbedder
from reelray.workers.models.wan.rope import Positions, RotaryTable
from reelray.workers.models.wan.text_context import CrossContext, ImageContext, TextContext, merge_zero_tokens
from reelray.workers.models.wan.window_forward import WanForward
from reelray.workers.residency.source import BlockSource, ResidentBlocks

REGIONS = ("before_self", "between", "after_cross")
VERSIONS = 64


class WanTransformer(nn.Module):
    """A Wan2.1 transformer of any size, freshly initialised.

    State dict names equal diffusers' `WanTransformer3DModel`, but self-attention holds `to_qkv` in place of `to_q`,
    `to_k`, `to_v`; `key_map.checkpoint_views` gives the un-fused names.

    Args:
        config: Size of the model.

    Attributes:
        layers: Layers that are here.
        source: Hands out their blocks; `blocks` holds them where they are kept, which need not be the device.
    """

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = range(config.num_layers)
        self.ops: BlockOps = TORCH_OPS
        self.rope = RotaryTable(config.rope_dims, config.rope_max_seq_len)
        self.patch_embedding = nn.Conv3d(config.in_channels, config.dim, config.patch_size, config.patch_size)
        self.condition_embedder = ConditionEmbedder(config)
        self.blocks = nn.ModuleList([WanBlock(config) for _ in range(config.num_layers)])
        self.source: BlockSource[WanBlock] = ResidentBlocks(self.blocks)
        self.proj_out = nn.Linear(config.dim, config.out_channels * math.prod(config.patch_size))
        self.scale_shift_table = nn.Parameter(torch.empty(1, 2, config.dim))
        if self.scale_shift_table.device.type != "meta":
            self.reset_parameters()

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the residual stream."""
        return self.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.patch_embedding.weight.device

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise for training: Xavier projections, small embedders, zero prediction, 1/sqrt(dim) modulation."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for block in self.source.modules():
            # A fused weight is three square ones: Xavier must see their shape, not 3C x C.
            for weight in block.attn1.to_qkv.weight.chunk(3):
                nn.init.xavier_uniform_(weight)
            nn.init.normal_(block.scale_shift_table, std=self.config.dim**-0.5)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        assert self.patch_embedding.bias is not None
        nn.init.zeros_(self.patch_embedding.bias)
        for embedder in (self.condition_embedder.time_embedder, self.condition_embedder.text_embedder):
            nn.init.normal_(embedder.linear_1.weight, std=0.02)
            nn.init.normal_(embedder.linear_2.weight, std=0.02)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.normal_(self.scale_shift_table, std=self.config.dim**-0.5)

    def prepare_text(self, embeddings_BKC: Tensor, *, merge_padding: bool | None = None) -> TextContext:
        """Project a prompt and make every layer's cross-attention keys and values.

        Args:
            embeddings_BKC: Text embeddings, zero in unused slots, on the model's device.
            merge_padding: Let one token stand for all zero slots (exact; see `merge_zero_tokens`). Waits for the
                device. None means on a CPU without gradients, where it makes a small forward a sixth faster.

        Returns:
            A context for any number of forwards with the same rows.
        """
        if merge_padding is None:
            merge_padding = self.device.type == "cpu" and not torch.is_grad_enabled()
        return self.prepare_texts([embeddings_BKC], merge_padding=merge_padding)[0]

    def prepare_texts(self, prompts: Sequence[Tensor], *, merge_padding: bool) -> list[TextContext]:
        """Project prompts, each as `prepare_text` does it alone, in one pass over the blocks.

        Args:
            prompts: Embeddings [B, K, C].
            merge_padding: See `prepare_text`.
        """
        rows = [embeddings_BKC.to(self.dtype) for embeddings_BKC in prompts]
        merged = [merge_zero_tokens(row_BKC) if merge_padding else (row_BKC, None) for row_BKC in rows]
        texts = [self.condition_embedder.text_embedder(row_BKC) for row_BKC, _ in merged]
        pairs: list[list[tuple[Tensor, Tensor]]] = [[] for _ in texts]
        for layer in self.layers:
            block = self.block(layer)
            for found, text_BKC in zip(pairs, texts, strict=True):
                found.append(block.attn2.text_heads(text_BKC))
        return [self._context(found, bias_BK) for found, (_, bias_BK) in zip(pairs, merged, strict=True)]

    def prepare_image(self, embeddings_BKC: Tensor) -> ImageContext:
        """Project CLIP embeddings of an image and make every layer's image keys and values.

        Args:
            embeddings_BKC: CLIP hidden states; first and last frame one after the other where the model has both.

        Raises:
            ValueError: The model takes no image.
        """
        if self.condition_embedder.image_embedder is None:
            raise ValueError("this transformer has no image embedder; it is a text-to-video model")
        image_BKC = self.condition_embedder.image_embedder(embeddings_BKC.to(self.dtype))
        return self._context([self.block(layer).attn2.image_heads(image_BKC) for layer in self.layers])

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        """Predict; takes what `open_forward` takes.

        Returns:
            Prediction of shape [B, out_channels, T, H, W] in the model's dtype.
        """
        return WholeModel().evaluate(self.open_forward(*inputs, **options))

    def open_forward(
        self,
        latents_BCTHW: Tensor,
        timestep_BT: Tensor,
        text: TextContext | Tensor,
        *,
        positions: Positions | None = None,
        image: ImageContext | None = None,
        attention: AttentionOp | None = None,
        shard: TokenShard | None = None,
    ) -> WanForward:
        """Prepare an evaluation, to be run in pieces.

        Args:
            latents_BCTHW: Noisy latents, with mask and condition channels behind them for i2v.
            timestep_BT: Timestep in [0, 1000] of each latent frame; shape [B] gives all frames of a row the same.
            text: Context of the prompts, or their embeddings [B, K, C].
            positions: Where the frames stand; 0, 1, ... by default.
            image: Context of the images of an i2v model.
            attention: Self-attention; that of the shard by default.
            shard: The tokens to work on; all by default. The prediction is whole all the same.

        Raises:
            ValueError: A shape does not fit.
        """
        batch, _, frames, height, width = latents_BCTHW.shape
        timestep_BG = self._grouped(timestep_BT, batch, frames)
        if positions is None:
            positions = Positions(frames=torch.arange(frames, device=latents_BCTHW.device))
        _, ph, pw = self.config.patch_size
        self.rope.check(positions, height // ph, width // pw)
        shard = shard or WholeWindow()
        return WanForward(
            transformer=self,
            latents_BCTHW=latents_BCTHW,
            timestep_BG=timestep_BG,
            positions=positions,
            text=self.prepare_text(text, merge_padding=False) if isinstance(text, Tensor) else text,
            image=image,
            attention=attention or shard.attention,
            shard=shard,
        )

    def embed_patches(self, patches_BSC: Tensor) -> Tensor:
        """Project patches of latents: the convolution as one matrix product."""
        return F.linear(patches_BSC, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def block(self, layer: int) -> WanBlock:
        """The block of a layer, to be used until the next one is asked for; see `BlockSource.take`.

        Raises:
            ValueError: It was not kept.
        """
        if layer not in self.layers:
            raise ValueError(f"layer {layer} is not here; {self.layers} were kept")
        return self.source.take(layer)

    def keep_layers(self, layers: range) -> None:
        """Drop all other layers and their memory; the names of parameters stay. Call before contexts are prepared.

        Raises:
            ValueError: There is nothing to keep, or not in one piece.
        """
        if not layers or layers.step != 1 or layers.start < 0 or layers.stop > len(self.blocks):
            raise ValueError(f"{layers} are no consecutive layers of {len(self.blocks)}")
        self.layers = layers
        self.source.keep(layers)
        for layer in range(len(self.blocks)):
            if layer not in layers:
                self.blocks[layer] = nn.Identity()

    def predict(self, x_BSC: Tensor, time_BGC: Tensor) -> Tensor:
        """Norm, modulate and project the residual stream to patches."""
        table_BG2C = self.scale_shift_table.float() + time_BGC[:, :, None].float()
        shift_BGC, scale_BGC = table_BG2C.unbind(2)
        patches_BSC: Tensor = self.proj_out(
            self.ops.norm_modulate(x_BSC, 1 + scale_BGC, shift_BGC, eps=self.config.eps)
        )
        return patches_BSC

    def use_ops(self, ops: BlockOps) -> None:
        """Do element-wise work by `ops`; call before `compile_blocks`."""
        self.ops = ops
        for block in self.source.modules():
            block.ops = ops

    def compile_blocks(
        self, *, dynamic: bool | None = None, backend: str = "inductor", mode: str | None = None
    ) -> None:
        """Compile the three regions of a block once and run every layer through them.

        Raises dynamo's limit of versions per function for the whole process.

        Args:
            dynamic: None compiles the first size as constants and later sizes once more with symbolic sizes; False
                compiles each size as constants (fastest kernels, for few sizes); True starts symbolic.
            backend: Compiler backend of `torch.compile`.
            mode: Mode of `torch.compile`.
        """
        # Batch of one or more, one timestep or many, each size: a version each, and every layer shares them.
        dynamo = torch._dynamo.config  # noqa: SLF001  (torch 2.11 has no argument for it)
        dynamo.recompile_limit = max(dynamo.recompile_limit, VERSIONS)
        for block in self.source.modules():
            for region in REGIONS:
                compiled = torch.compile(
                    getattr(WanBlock, region).__get__(block),
                    dynamic=dynamic,
                    backend=backend,
                    mode=mode,
                    fullgraph=True,
                )
                setattr(block, region, compiled)

    def _context(self, pairs: Sequence[tuple[Tensor, Tensor]], bias_BK: Tensor | None = None) -> CrossContext:
        keys, values = zip(*pairs, strict=True)
        return CrossContext(keys=keys, values=values, bias=bias_BK, first_layer=self.layers.start)

    @staticmethod
    def _grouped(timestep_BT: Tensor, batch: int, frames: int) -> Tensor:
        timestep_BG = timestep_BT[:, None] if timestep_BT.ndim == 1 else timestep_BT
        if timestep_BG.shape not in {(batch, 1), (batch, frames)}:
            allowed = f"[{batch}] or [{batch}, {frames}]"
            raise ValueError(f"timestep has shape {list(timestep_BT.shape)}; it must be {allowed}")
        return timestep_BG
