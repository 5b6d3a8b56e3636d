"""A rollout with memory in plain torch: lists of frames, a softmax, rotations in float64. Slow and obvious.

It shares nothing with `reelray.workers.memory`: what is attended follows from the definition of each recipe, looked up
anew for every chunk from all frames that ever were. Shape suffixes: S tokens, N heads, D head width, P pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle

import torch
from torch import Tensor


@dataclass(kw_only=True)
class Attended:
    """What a chunk sees of earlier ones.

    Args:
        entries: For each, its temporal position and a recipe for its keys and values: weights of frames.
        own: Temporal positions of the chunk's frames.
    """

    entries: list[tuple[int, dict[int, float]]]
    own: list[int]


Rule = Callable[[int, int], Attended]
"""First latent frame and length of a chunk, to what it attends."""


def latest(
    count: int, *, sink: int = 0, chunk: int, relative: bool = False, flushed: tuple[int, int] = (10**9, 0)
) -> Rule:
    """The first `sink` frames of the video, and of all others those that make `count` together with the chunk.

    From chunk `flushed[0]` on, what lay more than `flushed[1]` frames before it is gone, but for the sink.
    """
    at, keep = flushed

    def attend(first: int, length: int) -> Attended:
        begin = max(first - (count - chunk), at - keep if first >= at else 0)
        frames = [i for i in range(first) if i < sink or i >= begin]
        places = list(range(len(frames))) if relative else frames
        begin = len(frames) if relative else first
        entries = [(place, {frame: 1.0}) for place, frame in zip(places, frames, strict=True)]
        return Attended(entries=entries, own=list(range(begin, begin + length)))

    return attend


def pinned(count: int, *, sink: int, chunk: int, scenes: tuple[int, ...], shift: int) -> Rule:
    """As `latest`, but the sink is that of the last scene that is remembered; scenes stand `shift` places apart."""

    def place(frame: int) -> int:
        return frame + shift * sum(begin <= frame for begin in scenes)

    def attend(first: int, length: int) -> Attended:
        begins = [0, *(begin for begin in scenes if begin < first)]
        sinks = [range(begin, begin + sink) for begin in begins]
        frames = [i for i in range(first) if i in sinks[-1]]
        frames += [i for i in range(max(0, first - (count - chunk)), first) if not any(i in one for one in sinks)]
        entries = [(place(frame), {frame: 1.0}) for frame in frames]
        return Attended(entries=entries, own=[place(frame) for frame in range(first, first + length)])

    return attend


def moving_sink(count: int, *, sink: int, chunk: int, kept: float) -> Rule:
    """Relative places; each block of frames that leaves is folded into the sink, frame by frame."""

    def attend(first: int, length: int) -> Attended:
        weights: list[dict[int, float]] = [{i: 1.0} for i in range(min(sink, first))]
        for gone_first in range(0, first, chunk):
            # Whatever is neither sink nor among the latest once this chunk was committed left in this order.
            before = max(sink, gone_first - (count - chunk)) if gone_first else sink
            after = max(sink, gone_first + chunk - (count - chunk))
            for number, frame in enumerate(range(before, min(after, first))):
                old = weights[number % sink]
                weights[number % sink] = {i: kept * w for i, w in old.items()} | {frame: 1 - kept}
        frames = [i for i in range(sink, first) if i >= first - (count - chunk)]
        mixes = [*weights, *({i: 1.0} for i in frames)]
        return Attended(entries=list(enumerate(mixes)), own=list(range(len(mixes), len(mixes) + length)))

    return attend


def running_means(count: int, *, sink: int, chunk: int, shares: tuple[float, ...]) -> Rule:
    """Relative places; between sink and latest frames stand exponential means of all that lie between."""

    def attend(first: int, length: int) -> Attended:
        mixes: list[dict[int, float]] = [{i: 1.0} for i in range(min(sink, first))]
        gone = list(range(sink, max(sink, first - (count - chunk))))
        for share in shares if gone else ():
            mean = {gone[0]: 1.0}
            for frame in gone[1:]:
                mean = {i: (1 - share) * w for i, w in mean.items()} | {frame: share}
            mixes.append(mean)
        mixes += [{i: 1.0} for i in range(max(sink, first - (count - chunk)), first)]
        return Attended(entries=list(enumerate(mixes)), own=list(range(len(mixes), len(mixes) + length)))

    return attend


def there_and_back(count: int, *, early: int, chunk: int) -> Rule:
    """Relative places; the cache of `count` frames, block by block, as the published loop leaves it.

    As soon as a block is clean, the one before it is overwritten by frames of the first `early` ones, in the order of
    somebody who walks from the first to the last and back, for ever; the walk keeps step with the video.
    """

    def attend(first: int, length: int) -> Attended:
        round_trip = [*range(early), *reversed(range(early))]
        walk = [frame for _, frame in zip(range(first), cycle(round_trip), strict=False)]
        cache: list[int] = []
        for block in range(0, first, chunk):
            if block >= early + chunk:
                before = slice(len(cache) - chunk, len(cache))
                cache[before] = walk[block - chunk : block]
            cache = [*cache, *range(block, block + chunk)][-count:]
        seen = cache[max(0, len(cache) + length - count) :]
        entries = [(place, {frame: 1.0}) for place, frame in enumerate(seen)]
        return Attended(entries=entries, own=list(range(len(seen), len(seen) + length)))

    return attend


def rollouts(count: int, *, overlap: int, chunk: int) -> Rule:
    """Places in a rollout of `count` frames, of which the last `overlap` are the first of the next rollout."""

    def attend(first: int, length: int) -> Attended:
        begin = 0
        while first >= begin + count:
            begin += count - overlap
        frames = range(begin, first)
        entries = [(frame - begin, {frame: 1.0}) for frame in frames]
        return Attended(entries=entries, own=list(range(first - begin, first - begin + length)))

    del chunk
    return attend


@dataclass(kw_only=True)
class PlainMemory:
    """Implements `AttentionOp`: keeps every frame that was committed, for ever.

    Args:
        rule: What is attended.
        grid: Token rows and columns of a latent frame.
        pairs: Rotated pairs of a head for time, rows and columns.
        jump: Position of the window's first frame, wherever the rule puts it; None follows the rule.
        block: Where set, the window is `names`, which stand at 0, 1, ... and attend nothing but each other, causally in
            blocks of so many frames.
        names: Numbers of these frames.
    """

    rule: Rule
    grid: tuple[int, int]
    pairs: tuple[int, int, int]
    rotates: bool = True
    repeats: bool = True
    kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    window: tuple[int, int] = (0, 0)
    commits: bool = False
    seen: list[int] = field(default_factory=list)
    jump: int | None = None
    block: int | None = None
    names: tuple[int, ...] = ()

    def prepare(self, first: int, text: list[Tensor], *, recaches: bool = False) -> None:
        """Before a chunk, and before frames are remembered anew for it; `text` has keys of all slots, per layer."""

    def attended(self, layer: int) -> Attended:
        """What the window sees in a layer."""
        del layer
        if self.block is not None:
            return Attended(entries=[], own=list(range(len(self.names))))
        return self.rule(*self.window)

    def find(self, layer: int, frame: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a frame."""
        return self.kept[layer, frame]

    def __call__(
        self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, cos_BSP: Tensor, sin_BSP: Tensor
    ) -> Tensor:
        del cos_BSP, sin_BSP
        first, length = self.window
        attended = self.attended(layer)
        names = self.names if self.block is not None else range(first, first + length)
        own_places = attended.own if self.jump is None else range(self.jump, self.jump + length)
        places = self.grid[0] * self.grid[1]
        keys, values = [], []
        for position, weights in attended.entries:
            pairs = [self.find(layer, frame) for frame in weights]
            k_SND, v_SND = (
                sum(w * part.double() for w, part in zip(weights.values(), parts, strict=True))
                for parts in zip(*pairs, strict=True)
            )
            keys.append(self.turn(k_SND, position))
            values.append(v_SND)
        queries = []
        for number, (position, name) in enumerate(zip(own_places, names, strict=True)):
            own = slice(number * places, (number + 1) * places)
            queries.append(self.turn(q_BSND[0, own].double(), position))
            keys.append(self.turn(k_BSND[0, own].double(), position))
            values.append(v_BSND[0, own].double())
            if self.commits:
                self.kept[layer, name] = (k_BSND[0, own].clone(), v_BSND[0, own].clone())
        q_SND, k_SND, v_SND = (torch.cat(parts) for parts in (queries, keys, values))
        scores_NSS = torch.einsum("snd,tnd->nst", q_SND, k_SND) / q_SND.shape[-1] ** 0.5
        if self.block is not None:
            blocks = torch.arange(len(q_SND)) // (places * self.block)
            scores_NSS = scores_NSS.masked_fill(blocks[None] > blocks[:, None], -torch.inf)
        self.seen.append(len(attended.entries))
        return torch.einsum("nst,tnd->snd", scores_NSS.softmax(-1), v_SND)[None].to(q_BSND.dtype)

    def turn(self, x_SND: Tensor, position: int) -> Tensor:
        """Rotate the tokens of one latent frame."""
        rows, columns = self.grid
        angles = []
        for count, places in zip(
            self.pairs,
            (
                torch.full((rows, columns), position),
                torch.arange(rows)[:, None].expand(rows, columns),
                torch.arange(columns)[None].expand(rows, columns),
            ),
            strict=True,
        ):
            speeds = 10000.0 ** -(torch.arange(count, dtype=torch.float64) / count)
            angles.append(places.double()[..., None] * speeds)
        angles_SP = torch.cat(angles, -1).flatten(0, 1)
        pairs_SNP = torch.view_as_complex(x_SND.unflatten(-1, (-1, 2)).contiguous())
        turned_SNP = pairs_SNP * torch.polar(torch.ones_like(angles_SP), angles_SP)[:, None]
        return torch.view_as_real(turned_SNP).flatten(-2)
