"""What the engine needs from a model; it never asks which model it runs.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width, S tokens, F pixel frames.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from reelray.proto.decoder import Decoder
from reelray.proto.model_facts import ModelFacts
from reelray.proto.residency import Residency
from reelray.workers.memory.page_changes import Angles
from reelray.workers.memory.page_format import KeyShape
from reelray.workers.memory.room import Grid
from reelray.workers.models.attention_op import View
from reelray.workers.models.joint_rows import Row
from reelray.workers.models.sharding import DecodeParts, PictureSharing, Sharding
from reelray.workers.models.stages import Stages
from reelray.workers.residency.shared_blocks import Gather


class Recoder(Protocol):
    """Decodes one video once more, and encodes pictures of it anew."""

    def decode(self, latents_1CTHW: Tensor) -> None:
        """Take in the next clean latent frames."""
        ...

    def encode(self, latent_frame: int) -> Tensor:
        """The last picture of a latent frame as the first latent frame of a video.

        Args:
            latent_frame: One of the latest that `decode` was given.

        Returns:
            Latents as `VideoModel.denoise` takes them, 1, C, 1, H, W, float32.
        """
        ...

    @property
    def state(self) -> Any:
        """State of its decoder; see `VideoModel.new_decode_state`."""
        ...

    def show(self) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
        """All that it knows, as plain facts and tensors, for `take`."""
        ...

    def take(self, facts: Mapping[str, Any], tensors: Sequence[Tensor]) -> None:
        """Know what another one has shown."""
        ...


class VideoModel(Protocol):
    """A loaded checkpoint: text encoder, transformer and latent decoder, computing on one device.

    Text and image contexts are opaque to the engine: it keeps them per request and hands them back.

    Attributes:
        page_bytes: What streams may take of the device's memory; None lets the engine find out.
        host_bytes: What streams that rest may take of the host's memory; None means half of what is free.
    """

    facts: ModelFacts
    device: torch.device
    dtype: torch.dtype
    digest: str
    residency: Residency
    page_bytes: int | None
    host_bytes: int | None

    def encode_text(self, prompts: Sequence[str]) -> list[Any]:
        """Encode prompts into one text context each, cached by content."""
        ...

    def mix_text(self, prompts: Sequence[str], weights: Sequence[float]) -> Any:
        """The text context of prompts whose embeddings are added up by weight; these are cached by content."""
        ...

    def mean_text_keys(self, text: Any) -> Tensor:
        """Mean of the keys of a prompt over its text slots, in cross-attention of every layer [L, N, D], float32."""
        ...

    def encode_image(self, image_HWC: Tensor, *, frames: int) -> Any:
        """Encode a first frame (uint8) into the image context of an i2v model."""
        ...

    def denoise(
        self,
        latents_BCTHW: Tensor,
        timestep_BT: Tensor,
        text: Sequence[Any],
        *,
        positions_BT: Tensor,
        image: Sequence[Any] | None = None,
        view: View | None = None,
    ) -> Tensor:
        """Evaluate the transformer once.

        Args:
            latents_BCTHW: Noisy latents, any float dtype; computed in the model's dtype.
            timestep_BT: Timestep in [0, 1000] of each latent frame.
            text: One text context per batch row.
            positions_BT: Temporal position of each latent frame.
            image: One image context per batch row, for i2v models.
            view: What the window has to do with a memory; batch of one.

        Returns:
            The raw prediction, float32, shape of `latents_BCTHW`.
        """
        ...

    def denoise_rows(self, rows: Sequence[Row], *, in_step: bool = False) -> list[Tensor]:
        """Evaluate windows of several requests together; each attends its own text, image and memory.

        Args:
            rows: Windows of one size.
            in_step: Evaluate row by row, so that each gets the bits that `denoise` gives it alone; else products see
                all rows at once, whose last bits may depend on how many there are.

        Returns:
            The raw prediction of each, float32, shape of its latents.
        """
        ...

    @property
    def heads(self) -> int:
        """Heads of self-attention."""
        ...

    def key_shape(self, heads: int) -> KeyShape:
        """What a token leaves in a memory that keeps so many heads."""
        ...

    def angles(self, positions: Sequence[int], grid: Grid) -> Angles:
        """Angles by which keys of whole latent frames are rotated, one temporal position for each frame.

        Raises:
            IndexError: A position lies beyond what the model can tell apart.
        """
        ...

    def use_sharding(self, sharding: Sharding) -> None:
        """Let the forwards that follow share their tokens; all ranks of the sharding then call `denoise` together."""
        ...

    def use_weight_gather(self, gather: Gather) -> None:
        """Put sharded weights together by `gather`; its ranks then encode prompts and call `denoise` in step."""
        ...

    def use_stages(self, stages: Stages, layers: range | None = None) -> None:
        """Let `stages` evaluate the forwards that follow, on all its ranks together; drop all but `layers`."""
        ...

    def use_picture_sharing(self, sharing: PictureSharing | None) -> bool:
        """Decode together with other ranks from here on, or alone; returns whether this model can share pictures.

        A decode state goes on only with ranks that share the picture as those did that made it: `take_apart`.
        """
        ...

    def work_alone(self) -> None:
        """Forget all that `use_sharding`, `use_stages` and `use_picture_sharing` said; dropped layers stay dropped."""
        ...

    def new_decode_state(self, decoder: Decoder = ...) -> Any:
        """State of one video's causal decoder before its first latent frame; the full decoder's by default."""
        ...

    def decode(self, latents_1CTHW: Tensor, state: Any, *, waits: bool = True) -> Tensor:
        """Decode the next latent frames of a video and advance its state.

        Args:
            latents_1CTHW: As `denoise` leaves them.
            state: See `new_decode_state`.
            waits: Whether the frames are there when this returns, and not when the device's current stream is done.

        Returns:
            RGB uint8 frames on the CPU, shape F, H, W, 3; no frames on a rank whose pictures another one collects.
        """
        ...

    def use_landing(self, room: Callable[[int], Tensor | None]) -> None:
        """Leave decoded frames in memory that `room` gives for so many bytes, where it gives any."""
        ...

    def settle_decode(self, latents_1CTHW: Tensor, state: Any) -> None:
        """Decode pictures of this size as this state does from here on, whatever memory is left when a video begins."""
        ...

    def new_recoder(self, reach: int) -> Recoder:
        """Encodes pictures of a video anew.

        Args:
            reach: Latest latent frames whose pictures may be asked for.
        """
        ...

    def pack_decode_state(self, state: Any, *, latent_rows: int) -> bytes:
        """Write down a decode state; empty on a rank whose part another one collects."""
        ...

    def unpack_decode_state(self, data: bytes, *, decoder: Decoder, latent_rows: int) -> Any:
        """The decode state that `pack_decode_state` wrote, on this model's device.

        Raises:
            SnapshotError: It is one of another decoder.
        """
        ...

    def take_apart(self, state: Any) -> DecodeParts:
        """What other ranks need to go on with a decode state; the state must not be used again."""
        ...

    def put_together(self, parts: DecodeParts) -> Any:
        """The decode state of parts that were cut for the ranks which decode with this one now."""
        ...
