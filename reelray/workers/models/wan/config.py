"""Size and kind of a Wan transformer, in our words, diffusers' and those of the original release."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

COUNTS = (
    *("num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "text_dim", "freq_dim"),
    *("ffn_dim", "num_layers", "rope_max_seq_len"),
)
DIFFUSERS_CLASS = "WanTransformer3DModel"


@dataclass(frozen=True, kw_only=True, slots=True)
class WanConfig:
    """Shape of a Wan2.1 transformer; names follow diffusers.

    Args:
        patch_size: Latent cells per token in time, height and width; time must be 1.
        num_attention_heads: Heads of every attention.
        attention_head_dim: Width of a head.
        in_channels: Channels of the input: 16, or 36 with the mask and condition of an i2v model.
        out_channels: Channels of the prediction.
        text_dim: Width of the text embeddings.
        freq_dim: Sines and cosines of the timestep.
        ffn_dim: Hidden width of the feed-forward.
        num_layers: Blocks.
        cross_attn_norm: Whether an affine LayerNorm stands before cross-attention.
        eps: Epsilon of every norm in the blocks.
        image_dim: Width of the CLIP embeddings of an i2v model.
        added_kv_proj_dim: Input width of the image keys and values; equals the model's width.
        rope_max_seq_len: Temporal positions, rows and columns that have rotary angles.
        pos_embed_seq_len: Image tokens with a learned position (first-and-last-frame models).
    """

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 40
    attention_head_dim: int = 128
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 13824
    num_layers: int = 40
    cross_attn_norm: bool = True
    eps: float = 1e-6
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None
    rope_max_seq_len: int = 1024
    pos_embed_seq_len: int | None = None

    def __post_init__(self) -> None:
        for name in COUNTS:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if len(self.patch_size) != 3 or self.patch_size[0] != 1 or min(self.patch_size) < 1:
            raise ValueError(f"patch_size is {self.patch_size}; it must be (1, height, width)")
        if self.attention_head_dim % 2 or self.attention_head_dim < 6:
            raise ValueError(f"attention_head_dim is {self.attention_head_dim}; it must be even and at least 6")
        if self.freq_dim % 2 or self.freq_dim < 2:
            raise ValueError(f"freq_dim is {self.freq_dim}; it must be even and at least 2")
        if (self.image_dim is None) != (self.added_kv_proj_dim is None):
            raise ValueError(
                f"image_dim is {self.image_dim} and added_kv_proj_dim {self.added_kv_proj_dim}; set both or neither"
            )
        if self.added_kv_proj_dim not in {None, self.dim}:
            raise ValueError(f"added_kv_proj_dim is {self.added_kv_proj_dim}; it must be the width {self.dim}")

    @property
    def dim(self) -> int:
        """Width of the residual stream."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def is_i2v(self) -> bool:
        """Whether blocks attend image embeddings."""
        return self.image_dim is not None

    @property
    def rope_dims(self) -> tuple[int, int, int]:
        """Channels of a head rotated by time, row and column."""
        side = 2 * (self.attention_head_dim // 6)
        return self.attention_head_dim - 2 * side, side, side

    @classmethod
    def from_diffusers(cls, values: Mapping[str, Any]) -> Self:
        """Read a diffusers `config.json`; fields that only steer diffusers are dropped.

        Raises:
            ValueError: A field has a value this model does not implement.
        """
        if values.get("qk_norm", "rms_norm_across_heads") != "rms_norm_across_heads":
            raise ValueError(f"qk_norm is {values['qk_norm']!r}; only 'rms_norm_across_heads' is known")
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        if "patch_size" in known:
            known["patch_size"] = tuple(known["patch_size"])
        known["out_channels"] = known.get("out_channels") or known.get("in_channels", 16)
        return cls(**known)

    def to_diffusers(self) -> dict[str, Any]:
        """Write the fields of a diffusers `config.json`."""
        values = asdict(self)
        values["patch_size"] = list(self.patch_size)
        return {"_class_name": DIFFUSERS_CLASS, **values, "qk_norm": "rms_norm_across_heads"}
