"""Adds up what a request cost, for its summary."""

from reelray.proto.engine_description import EngineDescription
from reelray.proto.events import Stage
from reelray.proto.request import RenderRequest, RenderSummary
from reelray.proto.sparsity import SparsityReport, SparsityUse
from reelray.proto.step_plan import StageCost


class Account:
    """Growing costs of one request.

    Args:
        request: The request.
        description: The engine that runs it.
    """

    def __init__(self, request: RenderRequest, description: EngineDescription) -> None:
        self._request = request
        self._description = description
        self._stage_s: dict[str, float] = {str(Stage.LOAD): description.load_s}
        self._forwards = 0
        self.frames = request.frames  # a stream may grow
        self.peak_bytes = 0
        self._steps = 0
        self._use = SparsityUse()

    def add(self, cost: StageCost) -> None:
        """Add the cost of one step."""
        self._stage_s[str(cost.stage)] = self._stage_s.get(str(cost.stage), 0.0) + cost.seconds
        self._forwards += cost.forwards
        self._steps += cost.stage is Stage.DENOISE

    def add_use(self, use: SparsityUse) -> None:
        """Add how much of self-attention one step left out."""
        self._use += use

    def summary(self) -> RenderSummary:
        """The summary of the complete request."""
        request, description = self._request, self._description
        return RenderSummary(
            request_id=request.request_id,
            model=request.recipe.name,
            model_digest=description.digest,
            frames=self.frames,
            width=request.width,
            height=request.height,
            seed=request.seed,
            steps=self._steps,
            forwards=self._forwards,
            device=description.device,
            dtype=description.dtype,
            stage_s=dict(self._stage_s),
            peak_bytes=self.peak_bytes,
            layout=description.layout,
            residency=description.residency,
            decode_ranks=description.decode_ranks,
            patching=request.patching,
            sparsity=None if request.sparsity is None else SparsityReport(policy=request.sparsity, use=self._use),
        )
