"""The UMT5 encoder, inference only.

Ours rather than transformers': importing theirs costs a render three seconds, this costs none. Every layer has its
own relative position bias, scores are not scaled, norms are RMS without bias, the feed-forward is gated by tanh-GELU.
In float32 on a CPU the embeddings of a prompt are those of transformers' encoder bit for bit; elsewhere each prompt
takes no more time than its tokens need.

Shape suffixes: B batch, S tokens, N heads, D head width, C channels.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reelray.proto.errors import CheckpointError
from reelray.workers.residency.source import BlockSource, ResidentBlocks

ROW_TILE = 16
LONG_TEXT = 176
LONG_TILE = 512
"""Products and attention round a token by how many share the call, in steps: rows of a tile, up to a long text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Umt5Config:
    """Size of a UMT5 encoder; the defaults are UMT5-XXL as the original Wan files hold it.

    Args:
        vocab_size: Rows of the embedding.
        d_model: Width of the residual stream.
        d_kv: Width of a head.
        num_heads: Heads.
        d_ff: Hidden width of the feed-forward.
        num_layers: Blocks.
        relative_attention_num_buckets: Rows of each position bias, half of them for keys to the right.
        relative_attention_max_distance: Distances from here on share one bucket.
        layer_norm_epsilon: Epsilon of every norm.
    """

    vocab_size: int = 256384
    d_model: int = 4096
    d_kv: int = 64
    num_heads: int = 64
    d_ff: int = 10240
    num_layers: int = 24
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    @classmethod
    def from_transformers(cls, values: Mapping[str, Any]) -> Self:
        """Read a transformers `config.json`.

        Raises:
            CheckpointError: It is not a gated-GELU UMT5, or a field is missing.
        """
        if values.get("model_type") != "umt5" or values.get("feed_forward_proj") != "gated-gelu":
            kind = f"{values.get('model_type')} with {values.get('feed_forward_proj')}"
            raise CheckpointError(f"text_encoder/config.json: the model is {kind}; served: umt5 with gated-gelu")
        missing = [
            name for name in ("vocab_size", "d_model", "d_kv", "num_heads", "d_ff", "num_layers") if name not in values
        ]
        if missing:
            raise CheckpointError(f"text_encoder/config.json: field `{missing[0]}` is missing")
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})


class RmsNorm(nn.Module):
    """x / rms(x) * weight, mean square in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_BSC: Tensor) -> Tensor:
        """Normalise the last axis."""
        scale = torch.rsqrt(x_BSC.float().square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (x_BSC * scale).to(self.weight.dtype)


class Umt5Block(nn.Module):
    """Self-attention with relative positions, then the gated feed-forward."""

    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.heads = config.num_heads
        self.attention_norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        self.position_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)
        self.feed_norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x_BSC: Tensor, buckets_SS: Tensor, tokens: int) -> Tensor:
        """Run the block.

        Args:
            x_BSC: Residual stream.
            buckets_SS: Position bucket of query row and key column.
            tokens: How many are attended; padding follows.
        """
        normed = self.attention_norm(x_BSC)
        q, k, v = (
            linear(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear in (self.q, self.k, self.v)
        )
        bias_NSS = self.position_bias(buckets_SS).permute(2, 0, 1)
        if tokens < x_BSC.shape[1]:
            bias_NSS = bias_NSS.clone()
            bias_NSS[:, :, tokens:] = -math.inf
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias_NSS[None], scale=1.0)
        x_BSC = x_BSC + self.o(mixed.transpose(1, 2).flatten(2))
        normed = self.feed_norm(x_BSC)
        fed: Tensor = self.down(_bend(self.gate(normed)) * self.up(normed))
        return x_BSC + fed


class Umt5Encoder(nn.Module):
    """Token ids to embeddings.

    Args:
        config: Size of the model.

    Attributes:
        source: Hands out the blocks.
    """

    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList([Umt5Block(config) for _ in range(config.num_layers)])
        self.source: BlockSource[Umt5Block] = ResidentBlocks(self.blocks)
        self.norm = RmsNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, ids_BS: Tensor) -> Tensor:
        """Encode unpadded token ids, wherever they are; every token attends every token.

        Returns:
            Embeddings of shape B, S, C in the model's dtype, on its device.
        """
        return self.encode([ids_BS])[0]

    def encode(self, texts: Sequence[Tensor]) -> list[Tensor]:
        """Encode texts, each as `forward` does it alone, in one pass over the blocks."""
        device, lengths = self.norm.weight.device, [ids_BS.shape[1] for ids_BS in texts]
        if self._is_reference:
            texts = [
                F.pad(ids_BS, (0, _fill_tile(length) - length)) for ids_BS, length in zip(texts, lengths, strict=True)
            ]
        # The table may be in host memory: a prompt needs few of its rows.
        streams = [self.embedding(ids_BS.to(self.embedding.weight.device)).to(device) for ids_BS in texts]
        buckets = [find_buckets(ids_BS.shape[1], self.config).to(device) for ids_BS in texts]
        for layer in range(self.config.num_layers):
            block = self.source.take(layer)
            streams = [block(*inputs) for inputs in zip(streams, buckets, lengths, strict=True)]
        return [self.norm(x_BSC)[:, :length] for x_BSC, length in zip(streams, lengths, strict=True)]

    @property
    def _is_reference(self) -> bool:
        weight = self.norm.weight
        return weight.device.type == "cpu" and weight.dtype == torch.float32


def _fill_tile(tokens: int) -> int:
    """Rows with which these tokens are rounded as among the 512 of transformers' padded prompt."""
    tile = ROW_TILE if tokens <= LONG_TEXT else LONG_TILE
    return -(-tokens // tile) * tile


def _bend(x_BSC: Tensor) -> Tensor:
    """Compute tanh-GELU; in float32 on a CPU in transformers' steps, each of which rounds."""
    if x_BSC.device.type != "cpu" or x_BSC.dtype != torch.float32:
        return F.gelu(x_BSC, approximate="tanh")
    inner_BSC = math.sqrt(2 / math.pi) * (x_BSC + 0.044715 * torch.pow(x_BSC, 3.0))
    return 0.5 * x_BSC * (1 + torch.tanh(inner_BSC))


def find_buckets(tokens: int, config: Umt5Config) -> Tensor:
    """Bucket of each key position relative to each query: near ones exact, far ones logarithmic.

    Returns:
        int64 of shape S, S on the CPU, row query, column key.
    """
    positions = torch.arange(tokens)
    offset_SS = positions[None, :] - positions[:, None]
    half = config.relative_attention_num_buckets // 2
    exact = half // 2
    distance_SS = offset_SS.abs()
    span = math.log(config.relative_attention_max_distance / exact)
    far_SS = exact + (torch.log(distance_SS.float() / exact) / span * (half - exact)).long()
    near_or_far_SS = torch.where(distance_SS < exact, distance_SS, far_SS.clamp(max=half - 1))
    return near_or_far_SS + (offset_SS > 0) * half


TRANSFORMERS_PARTS: Mapping[str, str] = {
    "layer.0.layer_norm": "attention_norm",
    "layer.0.SelfAttention.q": "q",
    "layer.0.SelfAttention.k": "k",
    "layer.0.SelfAttention.v": "v",
    "layer.0.SelfAttention.o": "o",
    "layer.0.SelfAttention.relative_attention_bias": "position_bias",
    "layer.1.layer_norm": "feed_norm",
    "layer.1.DenseReluDense.wi_0": "gate",
    "layer.1.DenseReluDense.wi_1": "up",
    "layer.1.DenseReluDense.wo": "down",
}
ORIGINAL_PARTS: Mapping[str, str] = {
    "norm1": "attention_norm",
    "attn.q": "q",
    "attn.k": "k",
    "attn.v": "v",
    "attn.o": "o",
    "pos_embedding.embedding": "position_bias",
    "norm2": "feed_norm",
    "ffn.gate.0": "gate",
    "ffn.fc1": "up",
    "ffn.fc2": "down",
}
TOP_NAMES: Mapping[str, str] = {
    "shared.weight": "embedding.weight",
    "encoder.embed_tokens.weight": "embedding.weight",
    "encoder.final_layer_norm.weight": "norm.weight",
    "token_embedding.weight": "embedding.weight",
    "norm.weight": "norm.weight",
}


def rename_tensor(name: str) -> str | None:
    """Map a tensor name of transformers, or of the original Wan release, to ours; None for an unknown one."""
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    found = re.fullmatch(r"(encoder\.block|blocks)\.(\d+)\.(.+)\.weight", name)
    if found is None:
        return None
    parts = ORIGINAL_PARTS if found[1] == "blocks" else TRANSFORMERS_PARTS
    return f"blocks.{found[2]}.{parts[found[3]]}.weight" if found[3] in parts else None
