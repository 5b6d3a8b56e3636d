"""A bank in plain torch: each layer keeps copies of frames in a list, and scores them by all products of keys.

It shares nothing with `reelray.workers.memory`. Shape suffixes: S tokens, K text slots, N heads, D head width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.support.memory_oracle import Attended, PlainMemory


@dataclass(kw_only=True)
class PlainBank:
    """The bank of one layer.

    Args:
        size: Frames.
        every: Chunks from one candidate to the next.
        chunk: Frames of a chunk.
        repeats: Whether the candidate is taken in before every chunk.
        frames: What is kept, oldest first.
        candidate: The latest one.
        fresh: Whether it was not taken in yet.
    """

    size: int
    every: int
    chunk: int
    repeats: bool = False
    frames: list[int] = field(default_factory=list)
    candidate: int | None = None
    fresh: bool = False

    def brings(self, first: int) -> bool:
        return first // self.chunk % self.every == 0

    def step(self, score: Callable[[int], float]) -> int | None:
        """Before a chunk; returns the place of what was driven out."""
        gone = None
        if self.candidate is not None and (self.fresh or self.repeats):
            if len(self.frames) == self.size:
                scores = [score(place) for place in range(self.size)]
                gone = max(place for place in range(self.size) if scores[place] == min(scores))
                del self.frames[gone]
            self.frames.append(self.candidate)
        self.fresh = False
        return gone

    def offer(self, first: int) -> None:
        """The chunk that begins at `first` is clean."""
        if self.brings(first):
            self.candidate, self.fresh = first, True

    def shown(self, first: int) -> list[int]:
        """What a window sees that begins at `first`."""
        return self.frames[:-1] if self.brings(first) else list(self.frames)


@dataclass(kw_only=True)
class BankMemory(PlainMemory):
    """A plain memory with a bank beside it, at absolute places.

    Args:
        size: See `PlainBank`.
        every: See `PlainBank`.
        chunk: See `PlainBank`.
        repeats: See `PlainBank`.
        layers: Of the model.
        ties: First frames of chunks before which frames are remembered anew, where all score the same.
    """

    size: int
    every: int
    chunk: int
    layers: int
    repeats: bool = False
    ties: tuple[int, ...] = ()
    choices: int = 0

    def __post_init__(self) -> None:
        rules = {"size": self.size, "every": self.every, "chunk": self.chunk, "repeats": self.repeats}
        self.banks = [PlainBank(**rules) for _ in range(self.layers)]
        self.copies: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(self.layers)]
        self.staged: list[tuple[Tensor, Tensor] | None] = [None] * self.layers
        self.offered = -1

    def prepare(self, first: int, text: list[Tensor], *, recaches: bool = False) -> None:
        """See `PlainMemory`; `text` are keys [K, N, D] of every slot, padding included."""
        for layer, (bank, copies) in enumerate(zip(self.banks, self.copies, strict=True)):
            before = first - self.chunk
            if before > self.offered:
                bank.offer(before)
                if bank.candidate == before:
                    self.staged[layer] = tuple(part.clone() for part in self.kept[layer, before])
            known = len(bank.frames)

            def score(place, layer=layer, bank=bank, copies=copies):
                self.choices += 1
                if recaches and self.ties:
                    return 0.0
                k_SND = self.turn(copies[place][0].double(), bank.frames[place])
                products = torch.einsum("knd,snd->kns", text[layer].double(), k_SND) / k_SND.shape[-1] ** 0.5
                return float(products.mean())

            was_due = bank.candidate is not None and (bank.fresh or self.repeats)
            gone = bank.step(score)
            if gone is not None:
                del copies[gone]
            if was_due:
                copies.append(self.staged[layer])
            assert len(copies) == len(bank.frames) >= known
        self.offered = max(self.offered, first - self.chunk)

    def attended(self, layer: int) -> Attended:
        """See `PlainMemory`."""
        plain = super().attended(layer)
        shown = self.banks[layer].shown(self.window[0])
        extra = [(frame, {-1 - place: 1.0}) for place, frame in enumerate(shown)]
        return Attended(entries=[*plain.entries, *extra], own=plain.own)

    def find(self, layer: int, frame: int) -> tuple[Tensor, Tensor]:
        """Negative numbers are places of the bank."""
        return self.copies[layer][-1 - frame] if frame < 0 else super().find(layer, frame)
