"""What turns latents into pictures."""

from enum import StrEnum


class Decoder(StrEnum):
    """Latent decoders."""

    WAN_EXACT_STREAM = "wan_exact_stream"  # the full VAE, chunk by chunk; the same pictures as of a whole clip
    TAEHV_STREAM = "taehv_stream"  # a tiny decoder: other pictures of the same latents, for a small part of the cost

    @property
    def is_preview(self) -> bool:
        """Whether its pictures are an approximation."""
        return self is Decoder.TAEHV_STREAM
