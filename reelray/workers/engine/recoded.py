"""Frames that come first where latest frames are evaluated anew: their pictures, encoded as if a video began there.

Pictures that clients see may be made later, on other ranks, or by a preview decoder. So whoever remembers decodes on
its own account, where a forward is remembered: then the frames of the chunk before are on their way.

Shape suffixes: C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reelray.proto.memory_rule import FirstFrame, MemoryRule
from reelray.workers.models.api import Recoder, VideoModel


class RecodedFrames:
    """Those of one stream; nothing is kept where the recipe takes frames as they are.

    Args:
        rule: The recipe's; None remembers nothing.
        model: Decodes and encodes.
    """

    def __init__(self, rule: MemoryRule | None, model: VideoModel) -> None:
        self._rule, self._model, self._reach = rule, model, 0 if rule is None else rule.reach_anew
        self._waiting: list[Tensor] = []  # clean chunks that are not decoded
        self._resting: tuple[dict[str, Any], tuple[Tensor, ...]] | None = None
        self._recoder: Recoder | None = None
        if rule is not None and rule.first_frame is FirstFrame.CODED_ANEW:
            self._recoder = model.new_recoder(self._reach)

    def keep(self, latents_1CTHW: Tensor) -> None:
        """Take in the latest clean chunk."""
        if self._recoder is not None:
            self._waiting.append(latents_1CTHW)

    def catch_up(self) -> None:
        """Decode what has come."""
        for latents_1CTHW in self._waiting:
            assert self._recoder is not None
            self._recoder.decode(latents_1CTHW)
        self._waiting.clear()

    def begin(self, latents_1CTHW: Tensor, frames: Sequence[int]) -> Tensor:
        """Put the coded frame first.

        Args:
            latents_1CTHW: Of the frames that are evaluated anew, as they were made.
            frames: Their numbers in the video, of which all must have been decoded.
        """
        if self._recoder is None or frames[0] == 0:
            return latents_1CTHW
        first_1C1HW = self._recoder.encode(frames[0]).to(latents_1CTHW)
        return torch.cat([first_1C1HW, latents_1CTHW[:, :, 1:]], 2)

    def show(self) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
        """Facts and tensors of what is kept, for `take`."""
        if self._resting is not None:
            return self._resting
        if self._recoder is None:
            return {}, ()
        facts, tensors = self._recoder.show()
        return {"recoder": facts, "waiting": len(self._waiting)}, (*self._waiting, *tensors)

    def take(self, facts: Mapping[str, Any], tensors: Sequence[Tensor]) -> None:
        """Go on from what was shown."""
        if self._recoder is not None:
            there = [tensor.to(self._model.device) for tensor in tensors]
            self._waiting = there[: facts["waiting"]]
            self._recoder.take(facts["recoder"], there[facts["waiting"] :])

    def fork(self, *, rests: bool = False) -> "RecodedFrames":
        """A copy that goes its own way; of one that rests, or for `rests`, it rests."""
        other = RecodedFrames(self._rule, self._model)
        facts, tensors = self.show()
        if self._resting is not None or (rests and self._recoder is not None):
            other._resting = facts, tuple(tensor.cpu().clone() for tensor in tensors)
        else:
            other.take(facts, [tensor.clone() for tensor in tensors])
        return other

    def park(self) -> None:
        """Rest in host memory until `wake`; may rest already."""
        if self._recoder is not None and self._resting is None:
            facts, tensors = self.show()
            self._resting = facts, tuple(tensor.cpu() for tensor in tensors)
            self._waiting, self._recoder = [], self._model.new_recoder(self._reach)

    def wake(self) -> None:
        """Be as before `park`."""
        if self._resting is not None:
            resting, self._resting = self._resting, None
            self.take(*resting)
