"""What a simulated request costs: by the plan's measured table, as a render would be planned."""

from dataclasses import dataclass

from reelray.cluster.calibration import load_calibration
from reelray.cluster.plan_request import KnownModel, PlanOptions, find_model, plan_job
from reelray.cluster.render import choose_fps
from reelray.cluster.services import Services
from reelray.proto.errors import ResourceError
from reelray.scheduler.fleet.ticket import Kind
from reelray.scheduler.plan.choice import best_residency, choose
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.legality import list_lanes
from reelray.scheduler.plan.machine import Link, Machine
from reelray.scheduler.plan.prediction import Prediction
from reelray.scheduler.simulation.arrival import Cost, Shape

GPU_COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineKind:
    """Engines of a simulation.

    Args:
        gpus: Of one engine.
        memory_bytes: Of a GPU.
        link: What joins them.
    """

    gpus: int
    memory_bytes: int
    link: Link = Link.NVLINK


class CostBook:
    """Looks costs up, and predicts each shape once.

    Args:
        kind: Engines that run them.
        model: For shapes that name none.
        services: Where models are found.
    """

    def __init__(self, kind: EngineKind, model: str, services: Services) -> None:
        self._kind = kind
        self._model = model
        self._catalog = services.open_catalog(services.load_settings())
        self._table = load_calibration()
        self._models: dict[str, KnownModel] = {}
        self._costs: dict[Shape, Cost] = {}

    def cost(self, shape: Shape) -> Cost:
        """Cost of a shape.

        Raises:
            InputError: The model is unknown, or size or length do not fit it.
            ResourceError: No layout of an engine's GPUs has room for it.
        """
        found = self._costs.get(shape)
        if found is None:
            found = self._costs[shape] = self._predict(shape)
        return found

    def weights_bytes(self, shape: Shape) -> float:
        """Bytes of a GPU that no request can have: weights, and the process itself."""
        row = next(iter(self._rows(self._job(shape)).values()))
        memory = row.memory
        return memory.context + memory.blocks + memory.encoder + memory.decoder

    def _predict(self, shape: Shape) -> Cost:
        job = self._job(shape)
        rows = self._rows(job)
        if not rows:
            raise ResourceError(
                f"{shape.frames} frames of {job.width}x{job.height} do not fit into {self._kind.gpus} GPUs of an engine"
            )
        played_s = (
            shape.frames / float(choose_fps(None, self._known(shape).recipe)) if shape.kind is Kind.STREAM else 0.0
        )
        fewest, first = next(iter(rows.items()))
        memory = first.memory
        per_gpu = memory.activations + memory.memory + memory.latents + memory.buffers + memory.graphs
        return Cost(
            seconds={gpus: max(row.clip_s, played_s) for gpus, row in rows.items()},
            memory_bytes=int(fewest * per_gpu),
            step_s=first.step.total_ms / 1000,
        )

    def _rows(self, job: PlanJob) -> dict[int, Prediction]:
        """The fastest layout that fits, by number of GPUs."""
        rows = {}
        for gpus in (count for count in GPU_COUNTS if count <= self._kind.gpus):
            machine = Machine(gpus=gpus, memory_bytes=self._kind.memory_bytes, link=self._kind.link)
            lanes = [lane for lane in list_lanes(job, machine) if lane.lane == gpus and lane.pipe == 1]
            row = choose(best_residency(job, machine, self._table, lane) for lane in lanes)
            if row is not None:
                rows[gpus] = row
        return rows

    def _known(self, shape: Shape) -> KnownModel:
        name = shape.model or self._model
        if name not in self._models:
            self._models[name] = find_model(name, self._catalog)
        return self._models[name]

    def _job(self, shape: Shape) -> PlanJob:
        return plan_job(PlanOptions(size=shape.size or None, frames=shape.frames), self._known(shape))
