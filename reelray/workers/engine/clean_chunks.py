"""Clean chunks of a stream that may be evaluated once more, to be remembered.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from reelray.proto.memory_rule import Commit, PromptSwitch
from reelray.proto.recipe import Recipe


class CleanChunks:
    """Keeps chunks as long as the recipe may look back at them.

    Args:
        held: Chunks [1, C, T, H, W] by first latent frame.
    """

    def __init__(self, held: Mapping[int, Tensor] | None = None) -> None:
        self.held = dict(held or {})

    def keep(self, recipe: Recipe, first: int, latents_1CTHW: Tensor) -> None:
        """Take in the latest chunk, and drop those that nobody looks back at any more."""
        rule, chunk = recipe.memory, recipe.chunking.latent_frames
        if rule is None:
            return
        assert chunk is not None
        self.held[first], end = latents_1CTHW, first + latents_1CTHW.shape[2]
        reach, sink = rule.overlap, 0
        if rule.switch is PromptSwitch.RECACHE:
            reach = rule.switch_frames
        if rule.commit is Commit.REBUILD:
            reach, sink = rule.local - chunk, rule.sink
        for begin in [begin for begin in self.held if sink <= begin < first]:
            if begin + self.held[begin].shape[2] <= end - reach:
                del self.held[begin]

    def find(self, frames: Sequence[int]) -> Tensor:
        """Frames of whichever chunks, in this order."""
        parts = []
        for frame in frames:
            begin = max(begin for begin in self.held if begin <= frame)
            chunk_1CTHW = self.held[begin]
            assert frame - begin < chunk_1CTHW.shape[2], "clean frames are kept as long as they may be remembered"
            parts.append(chunk_1CTHW[:, :, frame - begin : frame - begin + 1])
        return torch.cat(parts, 2)
