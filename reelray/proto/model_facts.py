"""What the scheduler and the engine must know of a model, without its weights."""

from dataclasses import dataclass

from reelray.proto.decoder import Decoder
from reelray.proto.errors import SizeError
from reelray.proto.recipe import Recipe

LONGEST_LATENT_FRAMES = 1 << 18
"""Of a video without an end of its own: every chunk of it is planned ahead. 18 hours at 16 frames a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """Geometry of a latent video model.

    Args:
        family: Key of the model registry, such as ``wan``.
        task: ``t2v`` or ``i2v``.
        latent_channels: Channels the sampler works on.
        spatial_stride: Pixels per latent cell, in height and in width.
        temporal_stride: Pixel frames per latent frame after the first.
        patch: Latent cells per token in time, height and width.
        text_tokens: Text slots the transformer attends.
        layers: Transformer blocks.
        dim: Transformer width.
        parameters: Transformer parameters.
        positions: Latent frames, token rows and token columns that the transformer can tell apart; None has no end.
        decode_pixels: Pixels, over all frames, that the device decodes well at once; larger clips decode in pieces.
        decodes_beside: Whether the ranks decode while they move a window in the same step.
        decoders: Decoders that are there.
    """

    family: str
    task: str
    latent_channels: int
    spatial_stride: int
    temporal_stride: int
    patch: tuple[int, int, int]
    text_tokens: int
    layers: int
    dim: int
    parameters: int
    positions: int | None = None
    decode_pixels: int = 1_600_000
    decodes_beside: bool = False
    decoders: tuple[Decoder, ...] = (Decoder.WAN_EXACT_STREAM,)

    def latent_frames(self, frames: int, *, endless: bool = False) -> int:
        """Latent frames of a clip of `frames` pixel frames.

        Args:
            frames: Pixel frames.
            endless: Whether positions do not grow with the video.

        Raises:
            SizeError: `frames` is not a multiple of the temporal stride plus one, or is more than the model can place,
                or than `LONGEST_LATENT_FRAMES`.
        """
        if frames < 1 or (frames - 1) % self.temporal_stride:
            lower = max(1, (frames - 1) // self.temporal_stride * self.temporal_stride + 1)
            raise SizeError(
                f"{frames} frames cannot be made: the count must be {self.temporal_stride}n+1, "
                f"such as {lower} or {lower + self.temporal_stride}"
            )
        latent_frames = (frames - 1) // self.temporal_stride + 1
        if self.positions is not None and latent_frames > self.positions and not endless:
            raise SizeError(
                f"{frames} frames are too many for this model; it makes at most {self.frames(self.positions)}"
            )
        if endless and latent_frames > LONGEST_LATENT_FRAMES:
            raise SizeError(
                f"{frames} frames are too many for one video; it has at most {self.frames(LONGEST_LATENT_FRAMES)}, and "
                "another may go on from a snapshot of it"
            )
        return latent_frames

    def check_memory(self, recipe: Recipe, *, frames: int = 0, scenes: int = 0) -> None:
        """Refuse a recipe whose memory places frames where the model has no position.

        Args:
            recipe: The recipe.
            frames: Pixel frames of a video.
            scenes: How many scenes it cuts to.

        Raises:
            SizeError: It does.
        """
        if recipe.memory is None:
            return
        chunking = recipe.chunking
        try:
            recipe.memory.check_positions(
                self.positions, max(chunking.latent_frames or 1, chunking.first_latent_frames or 0)
            )
        except ValueError as error:
            raise SizeError(f"{error}") from None
        farther = scenes * recipe.memory.scene_shift
        if farther and self.positions is not None and self.latent_frames(frames) + farther > self.positions:
            raise SizeError(
                f"{frames} frames with {scenes} more scenes are too many for this model; with so many scenes it makes "
                f"at most {self.frames(max(1, self.positions - farther))}"
            )

    def frames(self, latent_frames: int) -> int:
        """Pixel frames that `latent_frames` latent frames decode to."""
        return (latent_frames - 1) * self.temporal_stride + 1

    def latent_size(self, width: int, height: int) -> tuple[int, int]:
        """Latent height and width of a picture.

        Raises:
            SizeError: A side is not a multiple of stride times patch, or is longer than the model can place.
        """
        for name, value, patch in (("width", width, self.patch[2]), ("height", height, self.patch[1])):
            step = self.spatial_stride * patch
            if value < step or value % step:
                lower = max(step, value // step * step)
                raise SizeError(
                    f"{name} {value} is not a multiple of {step}; the nearest are {lower} and {lower + step}"
                )
            if self.positions is not None and value > self.positions * step:
                raise SizeError(f"{name} {value} is too large for this model; it makes at most {self.positions * step}")
        return height // self.spatial_stride, width // self.spatial_stride

    def tokens(self, latent_frames: int, width: int, height: int) -> int:
        """Tokens of one window."""
        rows, columns = self.latent_size(width, height)
        return latent_frames // self.patch[0] * (rows // self.patch[1]) * (columns // self.patch[2])
