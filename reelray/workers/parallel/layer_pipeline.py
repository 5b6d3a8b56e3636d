"""The exact layer pipeline: every rank of the pipe axis has some layers, and forwards pass through all of them.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width, S tokens.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from reelray.proto.errors import EngineError
from reelray.workers.models.stages import Forward
from reelray.workers.parallel.mesh import AxisGroup
from reelray.workers.parallel.stage_line import StageLine
from reelray.workers.samplers.guidance import Branch, Branches, SequentialBranches


class LayerPipeline:
    """Implements `Stages` on the pipe axis of a lane. All its ranks make the same calls and get the same bits.

    One forward alone keeps one rank busy at a time: `PipelinedBranches` sends both branches of guidance along, and
    `run` as many forwards as there are.

    Args:
        group: The pipe axis.
        layers: Layers of the model.

    Attributes:
        exact: True: the result is that of one rank.

    Raises:
        UnsupportedError: There are fewer layers than ranks.
    """

    exact = True

    def __init__(self, group: AxisGroup, layers: int) -> None:
        self.line = StageLine(group, layers)
        self._deferred: list[Forward] | None = None

    @property
    def layers(self) -> range:
        """Layers of this rank; a model needs no others here."""
        return self.line.layers

    def forget(self) -> None:
        """See `Stages`; nothing is kept."""

    def evaluate(self, forward: Forward) -> Tensor:
        """See `Stages`. Inside `defer` it returns a tensor without values."""
        if self._deferred is not None:
            self._deferred.append(forward)
            return forward.assemble(torch.empty(forward.predicted.shape, dtype=forward.predicted.dtype, device="meta"))
        return self.evaluate_all([forward])[0]

    def evaluate_all(self, forwards: Sequence[Forward]) -> list[Tensor]:
        """Predict with several forwards that do not wait for each other.

        Args:
            forwards: The same on every rank.

        Returns:
            Their predictions [B, C, T, H, W].
        """
        arrivals = list(self.line.run(forwards))
        return [forward.assemble(arrival.wait()) for forward, arrival in zip(forwards, arrivals, strict=True)]

    def run_steps(self, steps: "Sequence[OpenStep]") -> list[list[Tensor]]:
        """Let the forwards of several denoise steps follow each other through the ranks.

        Args:
            steps: The same on every rank; of different chunks, for none may wait for another.

        Returns:
            For each step what `OpenStep.finish` wants.
        """
        arrivals = iter(list(self.line.run([forward for step in steps for forward in step.forwards])))
        return [[next(arrivals).wait() for _ in step.forwards] for step in steps]

    def run(self, forwards: Iterable[Forward | None]) -> Iterator[Tensor]:
        """Predict with a stream of forwards, such as those of the chunks of several videos, `ranks` of them in flight.

        Every rank must call it with the same forwards and take all predictions. A forward is asked for only when it
        can start, so it may be made from predictions that came before: the forward at place i from all up to place
        i - ranks.

        Args:
            forwards: None leaves one place free, where everything else waits for a prediction.

        Yields:
            Predictions [B, C, T, H, W], in order.
        """
        flying: deque[Forward] = deque()

        def note() -> Iterator[Forward | None]:
            for forward in forwards:
                if forward is not None:
                    flying.append(forward)
                yield forward

        for arrival in self.line.run(note()):
            yield flying.popleft().assemble(arrival.wait())

    @contextmanager
    def defer(self) -> Iterator[list[Forward]]:
        """Let `evaluate` only note forwards, in the list that this gives.

        What `evaluate` then returns lies on torch's meta device: whoever reads its values gets an error.
        """
        assert self._deferred is None
        self._deferred = []
        try:
            yield self._deferred
        finally:
            self._deferred = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenStep:
    """A denoise step whose forwards are known and have not run.

    Args:
        forwards: In the order in which they go through the line; they do not wait for each other.
        finish: Makes the prediction with guidance out of what they predict; every rank of the lane must call it.
    """

    forwards: tuple[Forward, ...]
    finish: Callable[[Sequence[Tensor]], Tensor]


@runtime_checkable
class LineBranches(Branches, Protocol):
    """Branches of guidance whose forwards can go through the line with those of other requests."""

    def open(self, evaluate: Callable[[Branch], Tensor], weight: float, *, shape: torch.Size) -> OpenStep:
        """Begin a step; see `Branches.predict` for the arguments."""
        ...


def open_branches(
    pipeline: LayerPipeline, evaluate: Callable[[Branch], Tensor], branches: Sequence[Branch]
) -> list[Forward]:
    """The forwards of some branches, not yet run.

    Raises:
        EngineError: `evaluate` does not run its forwards by this pipeline.
    """
    with pipeline.defer() as forwards:
        for branch in branches:
            evaluate(branch)
    if len(forwards) != len(branches):
        raise EngineError("the model does not evaluate by this pipeline; give it to the model's use_stages first")
    return list(forwards)


class PipelinedBranches:
    """Implements `LineBranches` on the pipe axis: the second branch follows the first, so that two ranks are busy.

    Exact.

    Args:
        pipeline: By which the model evaluates.
        around: Chooses among the branches and joins them: a `ParallelBranches` where the cfg axis separates them.
    """

    exact = True

    def __init__(self, pipeline: LayerPipeline, *, around: Branches | None = None) -> None:
        self._pipeline = pipeline
        self._around = around or SequentialBranches()

    def begin(self) -> "PipelinedBranches":
        """See `Branches`; the steps leave nothing."""
        return self

    def wanted(self, weight: float) -> tuple[Branch, ...]:
        """See `Branches`."""
        return self._around.wanted(weight)

    def open(self, evaluate: Callable[[Branch], Tensor], weight: float, *, shape: torch.Size) -> OpenStep:
        """See `LineBranches`."""
        branches = self.wanted(weight)
        forwards = open_branches(self._pipeline, evaluate, branches)

        def finish(predicted: Sequence[Tensor]) -> Tensor:
            found = {
                branch: forward.assemble(patches_BSC).float()
                for branch, forward, patches_BSC in zip(branches, forwards, predicted, strict=True)
            }
            return self._around.predict(found.__getitem__, weight, shape=shape)

        return OpenStep(forwards=tuple(forwards), finish=finish)

    def predict(self, evaluate: Callable[[Branch], Tensor], weight: float, *, shape: torch.Size) -> Tensor:
        """See `Branches`; every rank of the lane must call it with the same weight."""
        step = self.open(evaluate, weight, shape=shape)
        return step.finish(self._pipeline.run_steps([step])[0])
