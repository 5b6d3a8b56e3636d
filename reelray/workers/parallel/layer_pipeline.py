"""The exact layer pipeline: every rank of the pipe axis has some layers, and forwards pass through all of them.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width, S tokens.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from reelray.proto.errors import EngineError
from reelray.workers.models.stages import Forward
from reelray.workers.parallel.mesh import AxisGroup
from reelray.workers.parallel.stage_line import StageLine
from reelray.workers.samplers.guidance import Branch, mix_branches


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


def wanted_branches(weight: float) -> tuple[Branch, ...]:
    """What guidance of this weight needs."""
    return (Branch.CONDITIONAL,) if weight == 1.0 else tuple(Branch)


class PipelinedBranches:
    """Implements `Branches` on the pipe axis: the second branch follows the first, so that two ranks are busy at once.

    Exact. Where the cfg axis separates the branches, `ParallelBranches` is what calls for; there is nothing to follow.

    Args:
        pipeline: By which the model evaluates.
    """

    exact = True

    def __init__(self, pipeline: LayerPipeline) -> None:
        self._pipeline = pipeline

    def begin(self) -> "PipelinedBranches":
        """See `Branches`; the steps leave nothing."""
        return self

    def predict(self, evaluate: Callable[[Branch], Tensor], weight: float, *, shape: torch.Size) -> Tensor:
        """See `Branches`; every rank of the axis must call it with the same weight."""
        del shape
        forwards = open_branches(self._pipeline, evaluate, wanted_branches(weight))
        predictions = [prediction.float() for prediction in self._pipeline.evaluate_all(forwards)]
        return predictions[0] if weight == 1.0 else mix_branches(predictions[0], predictions[1], weight)
