"""Streams whose chunks share forwards, each written down as a plain loop: the oracle for what the engine makes of them.

They share the noise, the prompt's encoding and the network with the engine, and nothing else: noise levels, what is
attended and where it stands, what is remembered and which chunk is where follow from the published descriptions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reelray.workers.samplers.noise import draw_noise
from tests.support.memory_oracle import Attended, PlainMemory, Rule


def anchored(total: int, *, anchor: int, chunk: int) -> Rule:
    """Rolling Forcing's denoise steps: with the window `total` frames, the anchor moved up to right before the rest.

    A short last chunk, which the published code does not have, attends no more than others.
    """

    def attend(first: int, length: int) -> Attended:
        own = list(range(first, first + length))
        if first == 0:
            return Attended(entries=[], own=own)
        working = list(range(max(anchor, first - (total - max(length, chunk) - anchor)), first))
        moved = first - len(working) - anchor
        entries = [(moved + frame, {frame: 1.0}) for frame in range(anchor)]
        return Attended(entries=entries + [(frame, {frame: 1.0}) for frame in working], own=own)

    return attend


def newest(total: int, *, chunk: int) -> Rule:
    """With the window the newest `total` frames, each at its place; a short last chunk attends no more than others."""

    def attend(first: int, length: int) -> Attended:
        begin = max(0, first + max(length, chunk) - total)
        entries = [(frame, {frame: 1.0}) for frame in range(begin, first)]
        return Attended(entries=entries, own=list(range(first, first + length)))

    return attend


def shifted(entry: float, shift: float = 5.0) -> float:
    """Noise level of an entry of a step list."""
    return shift * entry / 1000 / (1 + (shift - 1) * entry / 1000)


@dataclass(kw_only=True)
class PlainStudio:
    """What the loops need of a model and a request."""

    model: object
    request: object

    def __post_init__(self) -> None:
        facts, request = self.model.facts, self.request
        self.height, self.width = facts.latent_size(request.width, request.height)
        self.total = (request.frames - 1) // facts.temporal_stride + 1
        self.transformer = self.model.parts.transformer
        texts = [(0, request.prompt), *((change.latent_frame, change.prompt) for change in request.changes)]
        self.texts = [(since, self.model.encode_text([text, request.negative_prompt])) for since, text in texts]

    def memory(self, rule: Rule, kind: Callable[..., PlainMemory] = PlainMemory) -> PlainMemory:
        pairs = tuple(dim // 2 for dim in self.transformer.config.rope_dims)
        return kind(rule=rule, grid=(self.height // 2, self.width // 2), pairs=pairs)

    def text_from(self, frame: int):
        """Contexts, conditional and not, of the prompt that holds where a chunk begins."""
        return [text for since, text in self.texts if since <= frame][-1]

    def noise(self, chunk: int, step: int, length: int) -> Tensor:
        return draw_noise(
            seed=self.request.seed, chunk=chunk, step=step, channels=self.model.facts.latent_channels,
            latent_frames=length, height=self.height, width=self.width,
        )  # fmt: skip


@torch.no_grad()
def roll_plainly(
    model: object,
    request: object,
    *,
    levels: list[float],
    rule: Rule,
    clean_rule: Rule,
    keeps_estimates: bool = False,
    on_window: Callable[[list[tuple[int, int]]], None] = lambda _: None,
) -> Tensor:
    """Clean latents [1, C, T, H, W] of a stream of which each chunk is one noise level ahead of the next.

    Args:
        model: Loaded checkpoint.
        request: Its chunks and guidance are followed.
        levels: Noise levels, largest first.
        rule: What a window attends.
        clean_rule: What the clean pass of the oldest chunk attends.
        keeps_estimates: Remember the first chunk after every window, clean or not, as Rolling Forcing's code does.
        on_window: Told of every window's chunks and their levels.
    """
    studio, size, scale = PlainStudio(model=model, request=request), request.recipe.chunking.latent_frames, None
    scale = request.recipe.guidance.scale
    spans = [(first, min(size, studio.total - first)) for first in range(0, studio.total, size)]
    branches = range(1 if scale == 1 else 2)
    memories = [studio.memory(rule) for _ in branches]
    noisy = {number: studio.noise(number, -1, length) for number, (_, length) in enumerate(spans)}
    clean: dict[int, Tensor] = {}

    def predict(x, times, first, text, *, commits=False):
        found = []
        for branch in branches:
            memory = memories[branch]
            memory.window, memory.commits, memory.rule = (first, x.shape[2]), commits, clean_rule if commits else rule
            found.append(studio.transformer(x, times, text[branch], attention=memory).float())
        return found[0] if len(found) == 1 else found[1] + scale * (found[0] - found[1])

    for window in range(len(spans) + len(levels) - 1):
        start, end = max(0, window - len(levels) + 1), min(len(spans) - 1, window)
        chunks, first = range(start, end + 1), spans[start][0]
        # The oldest chunk that can be in this window is at the last level, the newest at the first one.
        at = {chunk: window - chunk for chunk in chunks}
        on_window(list(at.items()))
        sigmas = torch.cat([torch.full((1, spans[chunk][1]), levels[at[chunk]]) for chunk in chunks], 1)
        x, text = torch.cat([noisy[chunk] for chunk in chunks], 2), studio.text_from(spans[end][0])
        x0 = x - sigmas[:, None, :, None, None] * predict(x, 1000 * sigmas, first, text)
        for chunk, part in zip(chunks, x0.split([spans[chunk][1] for chunk in chunks], 2), strict=True):
            if at[chunk] == len(levels) - 1:
                clean[chunk] = part
                continue
            following = levels[at[chunk] + 1]
            noisy[chunk] = (1 - following) * part + following * studio.noise(chunk, at[chunk], spans[chunk][1])
        if keeps_estimates or start in clean:
            oldest = x0[:, :, : spans[start][1]]
            predict(oldest, torch.zeros(1, spans[start][1]), first, text, commits=True)
    return torch.cat([clean[chunk] for chunk in sorted(clean)], 2)


def wrapped(frames: int, *, sink: int, wrap: int, first: int) -> Rule:
    """StreamDiffusionV2: a window of `frames`, the first `sink` of the video among them; its counter goes back.

    Args:
        frames: Attended, the chunk's own one included.
        sink: First frames of the video.
        wrap: The counter that is not reached: there it goes back to the last place of the window.
        first: Latent frames of the first chunk; all others have one.
    """
    places, counter = [*range(first)], first
    for _ in range(1000):
        counter = frames - 1 if counter >= wrap else counter
        places.append(counter)
        counter += 1

    def attend(begin: int, length: int) -> Attended:
        held = [frame for frame in range(begin) if frame < sink or frame > begin - (frames - sink)]
        entries = [(places[frame], {frame: 1.0}) for frame in held]
        return Attended(entries=entries, own=places[begin : begin + length])

    return attend


@torch.no_grad()
def stream_by_levels(
    model: object, request: object, *, levels: list[float], timesteps: list[float], rule: Rule, kind=PlainMemory
):
    """Clean latents of a stream in which each noise level remembers its own forwards, and nothing else does.

    The first chunk has one memory for all its steps, of which the last one's forward stays; all levels begin with it.

    Args:
        model: Loaded checkpoint.
        request: Its chunks and guidance are followed.
        levels: Noise levels, largest first.
        timesteps: What the network is told of each.
        rule: What a chunk attends.
        kind: Makes memories.
    """
    studio, chunking = PlainStudio(model=model, request=request), request.recipe.chunking
    scale, ends = request.recipe.guidance.scale, [chunking.first_latent_frames]
    while ends[-1] < studio.total:
        ends.append(min(studio.total, ends[-1] + chunking.latent_frames))
    branches = range(1 if scale == 1 else 2)
    memories = [[studio.memory(rule, kind) for _ in branches] for _ in levels]
    clean, begin = [], 0
    for chunk, end in enumerate(ends):
        x = studio.noise(chunk, -1, end - begin)
        for step, level in enumerate(levels):
            found = []
            for branch in branches:
                memory = memories[step if chunk else 0][branch]
                memory.window, memory.commits = (begin, end - begin), True
                memory.prepare(begin, [])
                times = torch.full((1, end - begin), timesteps[step])
                text = studio.text_from(begin)[branch]
                found.append(studio.transformer(x, times, text, attention=memory).float())
            flow = found[0] if len(found) == 1 else found[1] + scale * (found[0] - found[1])
            x = x - level * flow
            if step < len(levels) - 1:
                following = levels[step + 1]
                x = (1 - following) * x + following * studio.noise(chunk, step, end - begin)
        if chunk == 0:
            for others in memories[1:]:
                for branch in branches:
                    others[branch].kept = dict(memories[0][branch].kept)
        clean.append(x)
        begin = end
    return torch.cat(clean, 2)


@dataclass(kw_only=True)
class AdaptiveMemory(PlainMemory):
    """A sink of which each layer gives the newest frame the place that is least like it, if it is not like it at all.

    Args:
        sink: Places.
        least: Likeness below which a place is given away.
        layers: Of the model.
    """

    sink: int
    least: float
    layers: int

    def __post_init__(self) -> None:
        self.stays = [list(range(self.sink)) for _ in range(self.layers)]
        self.looked_at = self.sink - 1

    def prepare(self, first: int, text: list[Tensor], *, recaches: bool = False) -> None:
        """Frame `first - 1` is the newest."""
        del text, recaches
        if first - 1 <= self.looked_at:
            return
        self.looked_at = first - 1
        for layer, stays in enumerate(self.stays):
            found = [self.likeness(layer, frame, first - 1) for frame in stays]
            if min(found) < self.least:
                stays[found.index(min(found))] = first - 1

    def likeness(self, layer: int, one: int, other: int) -> float:
        pairs = zip(self.kept[layer, one], self.kept[layer, other], strict=True)
        means = [(a.double().mean(0).flatten(), b.double().mean(0).flatten()) for a, b in pairs]
        return sum(float(torch.cosine_similarity(a, b, dim=0)) for a, b in means) / 2

    def attended(self, layer: int) -> Attended:
        """The rule's entries, of whose first `sink` frames each layer has others."""
        plain = super().attended(layer)
        latest = [entry for entry in plain.entries if min(entry[1]) >= self.sink]
        sunk = [frame for frame in self.stays[layer] if frame < self.window[0]]
        places = [(self.rule(frame, 1).own[0], {frame: 1.0}) for frame in sunk]
        return Attended(entries=[*places, *latest], own=plain.own)
