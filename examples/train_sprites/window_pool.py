"""A pool of long clips on the device, and windows cut from them as a stream would remember them.

A window is the first chunk of a clip, which the sink holds for ever, and consecutive chunks from anywhere behind it.
Where its prompt changes, the chunks of another clip follow: latents as if that clip had always been shown, because the
decoder, not the transformer, turns one into the other. Two clips that stand side by side in the pool hold scenes whose
sprites meet in one place at some chunk, so that a change there goes on from where the sprite was.

Shape suffixes: B clips, J chunks of a window, K text slots, C channels, T latent frames of a chunk, H/W latent
height/width.
"""

import random
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from examples.train_sprites.captions import write_caption
from examples.train_sprites.draw import draw_batch
from examples.train_sprites.latent_pool import WORDINGS
from examples.train_sprites.motion import place_sprites
from examples.train_sprites.scenes import SceneBatch, Split, sample_scenes
from examples.train_sprites.sprites_model import WORD_SLOTS
from reelray.quality.sprites.vocabulary import FRAMES_PER_SECOND
from reelray.workers.models.wan.vae import WanVae

CHUNK_FRAMES = 3
CLIP_CHUNKS, WINDOW_CHUNKS = 14, 7
WHOLE_MEMORY = 3
"""The first place in a window that starts late where as much is remembered as in a stream: the sink and two chunks."""
BEGIN_SHARE, MEETING_SHARE = 0.5, 0.6


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """Windows of B clips.

    Args:
        latents: Float32 [B, J, C, T, H, W].
        ids: Token ids of both prompts [B, 2, K].
        switch: The first chunk of the window that goes by the second prompt [B]; J where none does.
        is_valid: Whether the window holds all that a stream would remember for a chunk [B, J].
    """

    latents: Tensor
    ids: Tensor
    switch: Tensor
    is_valid: Tensor

    @property
    def is_fresh(self) -> Tensor:
        """Whether a chunk shows what no chunk before it tells of [B, J]."""
        place_J = torch.arange(self.latents.shape[1], device=self.switch.device)
        return (place_J == 0) | (place_J == self.switch[:, None])


def first_frame(chunk: int) -> int:
    """Pixel frame with which a chunk begins: the first latent frame of a video is one pixel frame, others are four."""
    return max(0, 4 * CHUNK_FRAMES * chunk - 3)


class WindowPool:
    """Latents and captions of clips.

    Args:
        vae: Makes latents.
        tokenizer: Makes ids.
        split: Which combinations of words.
        capacity: Clips kept at most.
        seed: Of scenes, wordings and windows.
        pair_share: Share of clips with two sprites.
        switch_share: Share of windows in which the prompt may change.
        batch: Clips drawn and encoded at once, an even number.
    """

    def __init__(
        self,
        vae: WanVae,
        tokenizer: Any,
        *,
        split: Split = "train",
        capacity: int,
        seed: int,
        pair_share: float = 0.5,
        switch_share: float = 0.35,
        batch: int = 16,
    ) -> None:
        if capacity % batch or batch % 2:
            raise ValueError(f"capacity is {capacity}; it must be a multiple of {batch}, which must be even")
        self.vae, self.tokenizer, self.split, self.pair_share, self.batch = vae, tokenizer, split, pair_share, batch
        self.switch_share = switch_share
        self.device = vae.latents_mean.device
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = random.Random(seed)
        self.cursor = self.filled = 0
        shape = (capacity, CLIP_CHUNKS, 16, CHUNK_FRAMES, 16, 24)
        self.latents = torch.empty(shape, dtype=torch.float16, device=self.device)
        self.ids = torch.zeros(capacity, WORDINGS, WORD_SLOTS, dtype=torch.long, device=self.device)
        self.meeting = torch.zeros(capacity, dtype=torch.long, device=self.device)

    def fill(self, clips: int) -> None:
        """Add clips until there are `clips`."""
        while self.filled < clips:
            self.renew()

    @torch.no_grad()
    def renew(self) -> None:
        """Add a batch of clips, in place of the oldest ones when the pool is full."""
        scenes, meeting = self._draw_scenes()
        video = draw_batch(scenes, range(4 * CHUNK_FRAMES * CLIP_CHUNKS - 3), device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            mean = self.vae.encode_whole(video)[0]
        texts = [write_caption(scenes.describe(i), self.rng) for i in range(self.batch) for _ in range(WORDINGS)]
        ids = self.tokenizer(texts, padding="max_length", max_length=WORD_SLOTS, return_tensors="pt").input_ids
        place = slice(self.cursor, self.cursor + self.batch)
        chunks = torch.unflatten(self.vae.normalise(mean.float()), 2, (CLIP_CHUNKS, CHUNK_FRAMES)).movedim(2, 1)
        self.latents[place] = chunks.half()
        self.ids[place] = ids.view(self.batch, WORDINGS, WORD_SLOTS).to(self.device)
        self.meeting[place] = meeting.to(self.device)
        self.cursor = (self.cursor + self.batch) % len(self.latents)
        self.filled = min(self.filled + self.batch, len(self.latents))

    def sample(self, count: int) -> Windows:
        """Random windows, half of them from the beginning of a clip."""
        clip, partner, start, switch = self._choose(count)
        place_J = torch.arange(WINDOW_CHUNKS, device=self.device)
        chunk_BJ = torch.where(place_J == 0, 0, start[:, None] + place_J - 1)
        source_BJ = torch.where(place_J >= switch[:, None], partner[:, None], clip[:, None])
        wording = torch.randint(WORDINGS, (2, count), device=self.device)
        return Windows(
            latents=self.latents[source_BJ, chunk_BJ].float(),
            ids=torch.stack([self.ids[clip, wording[0]], self.ids[partner, wording[1]]], 1),
            switch=switch,
            is_valid=(start[:, None] == 1) | (place_J == 0) | (place_J >= WHOLE_MEMORY),
        )

    def _choose(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Clip, the one that follows it, the chunk from which the window goes on, and the place of the change."""

        def share() -> Tensor:
            return torch.rand(count, device=self.device)

        clip = torch.randint(self.filled, (count,), device=self.device)
        other = torch.randint(self.filled, (count,), device=self.device)
        late = torch.randint(2, CLIP_CHUNKS - WINDOW_CHUNKS + 2, (count,), device=self.device)
        start = torch.where(share() < BEGIN_SHARE, 1, late)
        anywhere = torch.randint(1, WINDOW_CHUNKS, (count,), device=self.device)
        meets = share() < MEETING_SHARE
        partner = torch.where(meets, clip ^ 1, other)
        switch = torch.where(meets, self.meeting[clip] - start + 1, anywhere).clamp(1, WINDOW_CHUNKS)
        switch = torch.where(share() < self.switch_share, switch, WINDOW_CHUNKS)
        return clip, partner, start, switch

    def _draw_scenes(self) -> tuple[SceneBatch, Tensor]:
        """Scenes, two and two of which meet, and the chunks at which they do [B]."""
        half = self.batch // 2
        one, two = (sample_scenes(half, self.generator, split=self.split, pair_share=self.pair_share) for _ in range(2))
        meeting = torch.randint(1, CLIP_CHUNKS, (half,), generator=self.generator)
        both = interleave(one, move_to_meet(two, one, meeting))
        return both, meeting.repeat_interleave(2)


def move_to_meet(scenes: SceneBatch, others: SceneBatch, chunk_B: Tensor) -> SceneBatch:
    """Move single sprites to where those of other scenes are when a chunk begins; pairs keep to their halves.

    Args:
        scenes: To be moved.
        others: One for each.
        chunk_B: When they meet.
    """
    time_s_B1 = torch.tensor([first_frame(int(chunk)) for chunk in chunk_B])[:, None] / FRAMES_PER_SECOND
    own, other = (place_sprites(each, 0, time_s_B1) for each in (scenes, others))
    single_B = ~scenes.present_BK[:, 1] & ~others.present_BK[:, 1]
    x_BK, y_BK = scenes.x_BK.clone(), scenes.y_BK.clone()
    x_BK[:, 0] += torch.where(single_B, (other.x_BT - own.x_BT)[:, 0], 0.0)
    y_BK[:, 0] += torch.where(single_B, (other.y_BT - own.y_BT)[:, 0], 0.0)
    tilt_B = torch.where(single_B, others.tilt_B, scenes.tilt_B)
    return replace(scenes, x_BK=x_BK, y_BK=y_BK, tilt_B=tilt_B)


def interleave(one: SceneBatch, two: SceneBatch) -> SceneBatch:
    """Scenes of both in turn."""
    values = {
        field.name: torch.stack([getattr(one, field.name), getattr(two, field.name)], 1).flatten(0, 1)
        for field in fields(SceneBatch)
    }
    return SceneBatch(**values)
