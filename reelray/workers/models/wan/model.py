"""A loaded Wan checkpoint behind the engine's seam.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width, S tokens, F pixel frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reelray.proto.errors import UnsupportedError
from reelray.proto.model_facts import ModelFacts
from reelray.proto.residency import Blocks, Residency
from reelray.workers.memory.page_changes import Angles
from reelray.workers.memory.page_format import KeyShape
from reelray.workers.memory.room import Grid
from reelray.workers.models.absent import is_here
from reelray.workers.models.attention_op import View
from reelray.workers.models.captured import choose_stages
from reelray.workers.models.joint_rows import Row
from reelray.workers.models.sharding import Sharding, WholeWindow
from reelray.workers.models.stages import Forward, Stages, WholeModel
from reelray.workers.models.wan.clip import ClipVision
from reelray.workers.models.wan.decoding import LatentDecoding
from reelray.workers.models.wan.image import build_condition, embed_image
from reelray.workers.models.wan.joint_forward import ForwardsInStep, stack_forwards
from reelray.workers.models.wan.rope import Positions
from reelray.workers.models.wan.taehv.model import Taehv
from reelray.workers.models.wan.text import TextEncoder
from reelray.workers.models.wan.text_context import (
    CrossContext,
    mean_of_slots,
    merge_context,
    pad_context,
    stack_contexts,
)
from reelray.workers.models.wan.transformer import WanTransformer
from reelray.workers.models.wan.vae import WanVae
from reelray.workers.models.wan.window_forward import WanForward
from reelray.workers.residency.shared_blocks import Gather, drop_gather, use_gather
from reelray.workers.to_device import put_on

ALIKE_KEYS = 32
"""Keys of a prompt come in multiples of this many on a GPU."""

SMALL_WINDOW = 512
"""Tokens up to which a clip on a CPU attends each slot of a prompt, which makes its float32 latents those of diffusers
bit for bit. Merged padding is nearer to exact arithmetic, and larger windows need the tenth of a forward it saves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WanParts:
    """The loaded parts of a checkpoint, which compute on one device.

    Args:
        transformer: Denoiser.
        vae: Latent decoder, and encoder of i2v conditions. It, or transformer and encoders, may be `Absent`.
        text_encoder: Tokenizer and UMT5.
        clip: Vision tower of an i2v checkpoint.
        preview: Tiny latent decoder.
    """

    transformer: WanTransformer
    vae: WanVae
    text_encoder: TextEncoder
    clip: ClipVision | None
    preview: Taehv | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCondition:
    """What the first frame of an i2v video leaves behind.

    Args:
        context: Cross-attention keys and values of CLIP's view.
        beside: Mask and latents that stand beside the noise; 1, C, T, H, W over the whole video.
    """

    context: CrossContext
    beside: Tensor


class WanModel(LatentDecoding):
    """Implements `VideoModel`.

    Args:
        facts: Geometry.
        parts: The loaded modules.
        digest: Names the checkpoint.
        residency: Where its weights are while they do not compute.
        at: Device and dtype of the transformer; None asks it.
    """

    def __init__(
        self,
        *,
        facts: ModelFacts,
        parts: WanParts,
        digest: str,
        residency: Residency | None = None,
        at: tuple[torch.device, torch.dtype] | None = None,
    ) -> None:
        self.device, self.dtype = at or (parts.transformer.device, parts.transformer.dtype)
        super().__init__(parts.vae, parts.preview, self.device)
        self.facts = facts
        self.residency = residency or Residency()
        self.page_bytes: int | None = None
        self.host_bytes: int | None = None
        self.parts = parts
        self.digest = digest
        self._sharding: Sharding
        self._stages: Stages = WholeModel()
        self.work_alone()

    def work_alone(self) -> None:
        """See `VideoModel.work_alone`."""
        self._sharding = WholeWindow()
        self.decode_alone()
        self._stages.forget()  # recordings hold groups of ranks
        self._stages = choose_stages(self.device, resident=self.residency.blocks is Blocks.RESIDENT)
        if is_here(self.parts.transformer):
            drop_gather(self.parts.transformer.source)

    def use_sharding(self, sharding: Sharding) -> None:
        """Let the forwards that follow share their tokens by `sharding`; its ranks call `denoise` together."""
        self._sharding = sharding

    def use_weight_gather(self, gather: Gather) -> None:
        """See `VideoModel.use_weight_gather`."""
        use_gather(self.parts.transformer.source, gather)

    def use_stages(self, stages: Stages, layers: range | None = None) -> None:
        """See `VideoModel.use_stages`; without `layers`, those that were loaded stay."""
        self._stages.forget()
        self._stages = stages
        if layers is not None:
            self.parts.transformer.keep_layers(layers)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> list[CrossContext]:
        """See `VideoModel.encode_text`.

        Raises:
            PromptError: A prompt has more tokens than fit.
        """
        embeddings_BSC = self.parts.text_encoder.encode(prompts)
        return self._prepare_texts([row_SC[None] for row_SC in embeddings_BSC])

    @torch.no_grad()
    def mix_text(self, prompts: Sequence[str], weights: Sequence[float]) -> CrossContext:
        """See `VideoModel.mix_text`.

        Raises:
            PromptError: A prompt has more tokens than fit.
        """
        embeddings_BSC = self.parts.text_encoder.encode(prompts)
        weights_B = torch.tensor(weights, dtype=torch.float32, device=embeddings_BSC.device)
        mixed_SC = torch.einsum("b,bsc->sc", weights_B, embeddings_BSC.float()).to(embeddings_BSC.dtype)
        return self._prepare_texts([mixed_SC[None]])[0]

    @torch.no_grad()
    def mean_text_keys(self, text: CrossContext) -> Tensor:
        """See `VideoModel.mean_text_keys`; a slot that stands for several counts as often."""
        return torch.stack([mean_of_slots(keys_BKND, text.bias)[0] for keys_BKND in text.keys])

    @torch.no_grad()
    def encode_image(self, image_HWC: Tensor, *, frames: int) -> ImageCondition:
        """See `VideoModel.encode_image`.

        Raises:
            UnsupportedError: This checkpoint makes videos from text alone.
        """
        clip = self.parts.clip
        if clip is None:
            raise UnsupportedError("this checkpoint makes videos from text alone; an i2v checkpoint takes an image")
        return ImageCondition(
            context=self.parts.transformer.prepare_image(embed_image(clip, image_HWC)),
            beside=build_condition(self.parts.vae, image_HWC, frames=frames),
        )

    @torch.no_grad()
    def denoise(
        self,
        latents_BCTHW: Tensor,
        timestep_BT: Tensor,
        text: Sequence[CrossContext],
        *,
        positions_BT: Tensor,
        image: Sequence[ImageCondition] | None = None,
        view: View | None = None,
    ) -> Tensor:
        """See `VideoModel.denoise`.

        Raises:
            UnsupportedError: An image is missing or not wanted.
        """
        forward = self._open(latents_BCTHW, timestep_BT, text, positions_BT, image, view)
        return self._stages.evaluate(forward).float()

    @torch.no_grad()
    def denoise_rows(self, rows: Sequence[Row], *, in_step: bool = False) -> list[Tensor]:
        """See `VideoModel.denoise_rows`.

        Raises:
            UnsupportedError: An image is missing or not wanted.
        """
        forwards = [
            self._open(
                row.latents_1CTHW,
                put_on(self.device, row.timesteps, torch.float32)[None],
                [row.text],
                put_on(self.device, row.positions, torch.int64)[None],
                None if row.image is None else [row.image],
                row.view,
            )
            for row in rows
        ]
        if len(forwards) == 1:
            return [self._stages.evaluate(forwards[0]).float()]
        joint: Forward = ForwardsInStep(rows=tuple(forwards)) if in_step else stack_forwards(forwards)
        return list(torch.split(self._stages.evaluate(joint).float(), 1))

    def _open(  # noqa: PLR0917  (all six are what is evaluated)
        self,
        latents_BCTHW: Tensor,
        timestep_BT: Tensor,
        text: Sequence[CrossContext],
        positions_BT: Tensor,
        image: Sequence[ImageCondition] | None,
        view: View | None,
    ) -> WanForward:
        if (image is None) != (self.parts.clip is None):
            wanted = "takes no image" if image else "needs a first frame"
            raise UnsupportedError(f"this {self.facts.task} checkpoint {wanted}")
        context = None
        if image is not None:
            context = stack_contexts([condition.context for condition in image])
            latents_BCTHW = _add_conditions(latents_BCTHW, image, positions_BT)
        *_, frames, height, width = latents_BCTHW.shape
        _, ph, pw = self.facts.patch
        if view is None and frames * (height // ph) * (width // pw) <= SMALL_WINDOW:
            text = [context.unmerged or context for context in text]
        if view is not None and view.core is not None:
            timestep_BT = timestep_BT[:, :1]  # in another order tokens of a frame do not lie together
        return self.parts.transformer.open_forward(
            latents_BCTHW,
            timestep_BT,
            stack_contexts(text),
            positions=Positions(frames=positions_BT),
            image=context,
            shard=self._sharding.shard(frames, (height // ph) * (width // pw), view),
        )

    @property
    def heads(self) -> int:
        """See `VideoModel.heads`."""
        return self.parts.transformer.config.num_attention_heads

    def key_shape(self, heads: int) -> KeyShape:
        """See `VideoModel.key_shape`."""
        config, layers = self.parts.transformer.config, self.parts.transformer.layers
        return KeyShape(layers=len(layers), heads=heads, width=config.attention_head_dim, dtype=self.dtype)

    @torch.no_grad()
    def angles(self, positions: Sequence[int], grid: Grid) -> Angles:
        """See `VideoModel.angles`."""
        frames_T = put_on(self.device, positions, torch.int64)
        rotation = self.parts.transformer.rope(Positions(frames=frames_T), grid.rows, grid.columns)
        return rotation.cos, rotation.sin

    def _prepare_texts(self, rows: Sequence[Tensor]) -> list[CrossContext]:
        if self.device.type == "cpu" and self.dtype == torch.float32:
            whole = self.parts.transformer.prepare_texts(rows, merge_padding=False)
            return [merge_context(context, row_BKC) for context, row_BKC in zip(whole, rows, strict=True)]
        contexts = self.parts.transformer.prepare_texts(rows, merge_padding=True)
        # A recorded forward serves prompts of one length only.
        return [pad_context(context, ALIKE_KEYS) for context in contexts] if self.device.type == "cuda" else contexts


def _add_conditions(latents_BCTHW: Tensor, image: Sequence[ImageCondition], positions_BT: Tensor) -> Tensor:
    """Put each row's mask and condition of its own latent frames behind the noise."""
    rows = [
        condition.beside.index_select(2, positions_T)
        for condition, positions_T in zip(image, positions_BT, strict=True)
    ]
    return torch.cat([latents_BCTHW, torch.cat(rows).to(latents_BCTHW.dtype)], dim=1)
