"""Projections of timestep, text and image embeddings to the model's width, and patches.

Module names equal diffusers' so that state dicts match. Shape suffixes: B batch, G groups of tokens with one timestep,
F frequencies, S tokens, C channels, T latent frames, H/W latent height/width.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reelray.workers.models.wan.config import WanConfig

IMAGE_NORM_EPS = 1e-5
MAX_PERIOD = 10000.0


def embed_timestep(timestep_BG: Tensor, width: int) -> Tensor:
    """Expand timesteps to cosines, then sines, of geometrically falling frequencies.

    Args:
        timestep_BG: Timesteps in [0, 1000].
        width: Channels of the result, even.

    Returns:
        float32, shape [B, G, width].
    """
    half = width // 2
    exponents_F = -math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=timestep_BG.device) / half
    angles_BGF = timestep_BG.float()[..., None] * exponents_F.exp()
    return torch.cat((angles_BGF.cos(), angles_BGF.sin()), dim=-1)


class TimeEmbedder(nn.Module):
    """Two linear layers with SiLU between."""

    def __init__(self, freq_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(freq_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, waves_BGF: Tensor) -> Tensor:
        """Project timestep waves; computes in the dtype of its weights."""
        hidden_BGC: Tensor = self.linear_2(F.silu(self.linear_1(waves_BGF.to(self.linear_1.weight.dtype))))
        return hidden_BGC


class TextEmbedder(nn.Module):
    """Two linear layers with tanh-GELU between."""

    def __init__(self, text_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(text_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, embeddings_BSC: Tensor) -> Tensor:
        """Project text embeddings to the model's width."""
        hidden_BSC: Tensor = self.linear_2(F.gelu(self.linear_1(embeddings_BSC), approximate="tanh"))
        return hidden_BSC


class GeluLinear(nn.Module):
    """A linear layer followed by GELU; `approximate` is torch's argument."""

    def __init__(self, inner: int, outer: int, approximate: str) -> None:
        super().__init__()
        self.proj = nn.Linear(inner, outer)
        self.approximate = approximate

    def forward(self, x_BSC: Tensor) -> Tensor:
        """Project and bend."""
        return F.gelu(self.proj(x_BSC), approximate=self.approximate)


class FeedForward(nn.Module):
    """Widen, bend, narrow."""

    def __init__(self, dim: int, hidden: int, out: int, approximate: str) -> None:
        super().__init__()
        self.net = nn.ModuleList([GeluLinear(dim, hidden, approximate), nn.Identity(), nn.Linear(hidden, out)])

    @property
    def layers(self) -> tuple[nn.Linear, nn.Linear]:
        """The widening and the narrowing layer."""
        widen, _, narrow = self.net
        assert isinstance(widen, GeluLinear)
        assert isinstance(narrow, nn.Linear)
        return widen.proj, narrow

    def forward(self, x_BSC: Tensor) -> Tensor:
        """Map each token by itself."""
        hidden_BSC: Tensor = self.net[2](self.net[0](x_BSC))
        return hidden_BSC


class ImageEmbedder(nn.Module):
    """Norm, feed-forward, norm over CLIP image embeddings."""

    def __init__(self, image_dim: int, dim: int, positions: int | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(image_dim, eps=IMAGE_NORM_EPS)
        self.ff = FeedForward(image_dim, image_dim, dim, "none")
        self.norm2 = nn.LayerNorm(dim, eps=IMAGE_NORM_EPS)
        self.pos_embed = None if positions is None else nn.Parameter(torch.zeros(1, positions, image_dim))

    def forward(self, embeddings_BSC: Tensor) -> Tensor:
        """Project image embeddings to the model's width."""
        if self.pos_embed is not None:
            embeddings_BSC = embeddings_BSC + self.pos_embed
        hidden_BSC = self.ff(norm_in_float(self.norm1, embeddings_BSC))
        return norm_in_float(self.norm2, hidden_BSC)


class ConditionEmbedder(nn.Module):
    """Everything that conditions the blocks."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.freq_dim = config.freq_dim
        self.time_embedder = TimeEmbedder(config.freq_dim, config.dim)
        self.time_proj = nn.Linear(config.dim, 6 * config.dim)
        self.text_embedder = TextEmbedder(config.text_dim, config.dim)
        self.image_embedder = (
            None if config.image_dim is None else ImageEmbedder(config.image_dim, config.dim, config.pos_embed_seq_len)
        )

    def embed_time(self, timestep_BG: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Embed timesteps.

        Args:
            timestep_BG: One timestep per group of tokens.
            dtype: Dtype of the embedding, the model's.

        Returns:
            The embedding [B, G, C] and the modulation of the blocks [B, G, 6, C], both in `dtype`.
        """
        groups = timestep_BG.shape[1]
        if _is_one_timestep(timestep_BG):
            timestep_BG = timestep_BG[:, :1]
        time_BGC = self.time_embedder(embed_timestep(timestep_BG, self.freq_dim)).to(dtype)
        modulation_BG6C = self.time_proj(F.silu(time_BGC)).unflatten(-1, (6, -1))
        return time_BGC.expand(-1, groups, -1), modulation_BG6C.expand(-1, groups, -1, -1)


def _is_one_timestep(timestep_BG: Tensor) -> bool:
    # A product of more rows rounds otherwise, and to ask a GPU would mean to wait for it.
    eager = timestep_BG.device.type == "cpu" and not torch.compiler.is_compiling()
    return eager and bool((timestep_BG == timestep_BG[:, :1]).all())


def norm_in_float(norm: nn.LayerNorm, x_BSC: Tensor) -> Tensor:
    """Apply an affine LayerNorm in float32 and return to the dtype of `x_BSC`."""
    normed_BSC = F.layer_norm(x_BSC.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)
    return normed_BSC.to(x_BSC.dtype)


def cut_patches(latents_BCTHW: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Cut latents into patches.

    Args:
        latents_BCTHW: Latents whose height and width divide by the patch.
        patch: Latent cells per token; 1 in time.

    Returns:
        Shape [B, T * H/ph * W/pw, C * ph * pw].

    Raises:
        ValueError: Height or width does not divide.
    """
    _, ph, pw = patch
    batch, channels, frames, height, width = latents_BCTHW.shape
    if height % ph or width % pw:
        raise ValueError(f"latents are {height} x {width}; they must divide by {ph} x {pw}")
    cells = latents_BCTHW.reshape(batch, channels, frames, height // ph, ph, width // pw, pw)
    return cells.permute(0, 2, 3, 5, 1, 4, 6).reshape(batch, -1, channels * ph * pw)


def join_patches(tokens_BSC: Tensor, patch: tuple[int, int, int], size: tuple[int, int, int]) -> Tensor:
    """Put predicted patches together.

    Args:
        tokens_BSC: Tokens whose channels are ordered (ph, pw, channel).
        patch: Latent cells per token; 1 in time.
        size: Latent frames, height and width.

    Returns:
        Shape [B, channels, T, H, W].
    """
    _, ph, pw = patch
    frames, height, width = size
    cells = tokens_BSC.reshape(tokens_BSC.shape[0], frames, height // ph, width // pw, ph, pw, -1)
    return cells.permute(0, 6, 1, 2, 4, 3, 5).reshape(tokens_BSC.shape[0], -1, frames, height, width)
