"""Clean chunks of a stream that may be evaluated once more, to be remembered.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reelray.proto.memory_rule import Commit, PromptSwitch
from reelray.proto.recipe import Recipe
from reelray.workers.engine.recoded import RecodedFrames
from reelray.workers.models.api import VideoModel

_HELD, _RECODED = "clean.", "recoded."


class CleanChunks:
    """Keeps chunks as long as the recipe may look back at them.

    Args:
        recipe: Says how far that is.
        model: Codes pictures anew where the recipe wants that.
    """

    def __init__(self, recipe: Recipe, model: VideoModel) -> None:
        self.held: dict[int, Tensor] = {}  # [1, C, T, H, W] by first latent frame
        self._recipe, self._model = recipe, model
        self._recoded = RecodedFrames(recipe.memory, model)

    def keep(self, first: int, latents_1CTHW: Tensor) -> None:
        """Take in the latest chunk, and drop those that nobody looks back at any more."""
        rule, chunk = self._recipe.memory, self._recipe.chunking.latent_frames
        if rule is None:
            return
        assert chunk is not None
        self._recoded.keep(latents_1CTHW)
        self.held[first], end = latents_1CTHW, first + latents_1CTHW.shape[2]
        reach, sink = rule.overlap, 0
        if rule.switch is PromptSwitch.RECACHE:
            reach = rule.switch_frames
        if rule.commit is Commit.REBUILD:
            reach, sink = rule.local - chunk, rule.sink
        for begin in [begin for begin in self.held if sink <= begin < first]:
            if begin + self.held[begin].shape[2] <= end - reach:
                del self.held[begin]

    def find(self, frames: Sequence[int], *, anew: bool = False) -> Tensor:
        """Frames of whichever chunks, in this order; as they were made, unless memory begins anew with them."""
        self._recoded.catch_up()
        parts = []
        for frame in frames:
            begin = max(begin for begin in self.held if begin <= frame)
            chunk_1CTHW = self.held[begin]
            assert frame - begin < chunk_1CTHW.shape[2], "clean frames are kept as long as they may be remembered"
            parts.append(chunk_1CTHW[:, :, frame - begin : frame - begin + 1])
        return self._recoded.begin(torch.cat(parts, 2), frames) if anew else torch.cat(parts, 2)

    def fork(self, *, rests: bool = False) -> "CleanChunks":
        """A copy that goes its own way; of one that rests, or for `rests`, it rests in host memory."""
        other = CleanChunks(self._recipe, self._model)
        other.held, other._recoded = {**self.held}, self._recoded.fork(rests=rests)
        return other

    def park(self) -> None:
        """See `RecodedFrames.park`."""
        self._recoded.park()

    def wake(self) -> None:
        """See `RecodedFrames.wake`."""
        self._recoded.wake()

    def show(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Facts and tensors of all that is kept, for `take`."""
        facts, tensors = self._recoded.show()
        held = {f"{_HELD}{first}": latents for first, latents in self.held.items()}
        return facts, held | {f"{_RECODED}{number}": tensor for number, tensor in enumerate(tensors)}

    def take(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep what was shown; there may be other tensors too."""
        held = {int(n.removeprefix(_HELD)): value for n, value in tensors.items() if n.startswith(_HELD)}
        self.held = {first: latents.to(self._model.device) for first, latents in held.items()}
        count = sum(name.startswith(_RECODED) for name in tensors)
        self._recoded.take(facts, [tensors[f"{_RECODED}{number}"] for number in range(count)])
