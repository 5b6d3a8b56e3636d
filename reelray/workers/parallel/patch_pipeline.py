"""The displaced patch pipeline (PipeFusion, arXiv 2405.14430): approximate, for whole clips over slow links.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width, S tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reelray.proto.errors import UnsupportedError
from reelray.proto.patching import Patching
from reelray.workers.models.stages import Forward
from reelray.workers.parallel.layer_pipeline import LayerPipeline, OpenStep, open_branches
from reelray.workers.parallel.patch_keys import KeepingAttention, PatchAttention, PatchKeys, split_patches
from reelray.workers.samplers.guidance import Branch, Branches, SequentialBranches


@dataclass(kw_only=True, slots=True)
class _Kept:
    keys: PatchKeys
    step: int


class PatchBranches:
    """Implements `LineBranches` on the pipe axis of a lane; approximate.

    The patches of a window follow each other through the ranks. A patch attends keys and values of this step where it
    or a patch before it made them, and of the step before for the patches behind it. The first steps are exact, and so
    is a step of a branch that sat out the one before, because its keys would be two steps old. Every rank of the axis
    must make the same calls.

    Args:
        pipeline: By which the model evaluates.
        patching: How much is approximated.
        around: Chooses among the branches and joins them: a `ParallelBranches` where the cfg axis separates them.
    """

    def __init__(self, pipeline: LayerPipeline, patching: Patching, *, around: Branches | None = None) -> None:
        self._pipeline = pipeline
        self._patching = patching
        self._around = around or SequentialBranches()
        self._kept: dict[Branch, _Kept] = {}
        self._step = 0

    @property
    def exact(self) -> bool:
        """Whether the result is that of one rank."""
        return self._patching.patches == 1

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values that this rank holds for the next step."""
        return sum(kept.keys.nbytes for kept in self._kept.values())

    def begin(self) -> "PatchBranches":
        """See `Branches`; drop the result to free its keys and values."""
        return PatchBranches(self._pipeline, self._patching, around=self._around)

    def reset(self) -> None:
        """Forget all steps: the next one is the first."""
        self._kept.clear()
        self._step = 0

    def wanted(self, weight: float) -> tuple[Branch, ...]:
        """See `Branches`."""
        return self._around.wanted(weight)

    def open(self, evaluate: Callable[[Branch], Tensor], weight: float, *, shape: torch.Size) -> OpenStep:
        """See `LineBranches`; one call is one step, and every rank must make it with the same weight.

        Raises:
            SizeError: A latent frame has fewer tokens than there are patches.
            UnsupportedError: Other ranks have some of the tokens, or the attention rotates keys by itself.
        """
        self._step += 1
        branches = self.wanted(weight)
        forwards = open_branches(self._pipeline, evaluate, branches)
        parts = [self._cut(forward, branch) for forward, branch in zip(forwards, branches, strict=True)]

        def finish(predicted: Sequence[Tensor]) -> Tensor:
            arrived, found = iter(predicted), {}
            for branch, forward, own in zip(branches, forwards, parts, strict=True):
                patches = [next(arrived) for _ in own]
                whole_BSC = patches[0] if len(own) == 1 else self._kept[branch].keys.patches[0].join(patches)
                found[branch] = forward.assemble(whole_BSC).float()
            return self._around.predict(found.__getitem__, weight, shape=shape)

        return OpenStep(forwards=tuple(part for own in parts for part in own), finish=finish)

    def predict(self, evaluate: Callable[[Branch], Tensor], weight: float, *, shape: torch.Size) -> Tensor:
        """See `Branches` and `open`."""
        step = self.open(evaluate, weight, shape=shape)
        return step.finish(self._pipeline.run_steps([step])[0])

    def _cut(self, forward: Forward, branch: Branch) -> list[Forward]:
        if self._patching.patches == 1:
            return [forward]
        frames, places = forward.grid
        if forward.stream.shape[1] != frames * places or forward.attention.rotates:
            raise UnsupportedError("a window is cut into patches only where all its tokens are here, without a memory")
        kept = self._kept.get(branch)
        if self._step > self._patching.exact_steps and kept is not None and kept.step == self._step - 1:
            kept.step = self._step
            return [forward.cut(patch.take, PatchAttention(patch, kept.keys)) for patch in kept.keys.patches]
        if kept is None:
            kept = self._kept[branch] = _Kept(
                keys=PatchKeys(split_patches(frames, places, self._patching.patches)), step=self._step
            )
        kept.step = self._step
        return [forward.cut(None, KeepingAttention(forward.attention, kept.keys))]
