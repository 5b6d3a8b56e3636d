"""What predicting the time and the bytes of a model needs beyond its geometry."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSizes:
    """Sizes of the networks of one checkpoint.

    Args:
        heads: Attention heads of the transformer.
        ffn_dim: Hidden width of its feed-forward.
        image_tokens: Image tokens that cross-attention reads, 0 for text-to-video models.
        text_encoder_parameters: Of the text encoder.
        image_encoder_parameters: Of the image encoder, 0 where there is none.
        decoder_parameters: Of the latent decoder.
        decoder_flops: FLOPs per latent cell of one latent frame after the first, its attention left out.
        decoder_first_flops: The same for the first latent frame, which decodes to one picture.
        decoder_state_bytes: Bytes per latent cell that one decode call holds whatever its length, in bf16.
        decoder_frame_bytes: Further bytes per latent cell and latent frame of the call, in bf16.
    """

    heads: int
    ffn_dim: int
    image_tokens: int = 0
    text_encoder_parameters: int
    image_encoder_parameters: int = 0
    decoder_parameters: int
    decoder_flops: int
    decoder_first_flops: int
    decoder_state_bytes: int
    decoder_frame_bytes: int

    def __post_init__(self) -> None:
        for name in ("heads", "ffn_dim", "decoder_flops", "decoder_first_flops"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
