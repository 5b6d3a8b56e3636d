"""What a house tells of its engines."""

from dataclasses import replace
from functools import cache
from pathlib import Path

from reelray.cluster.coordinator.messages import EngineOffer
from reelray.cluster.gateway.served_models import ServedModel, ServedModels
from reelray.cluster.machine import list_gpus
from reelray.proto.errors import ReelrayError
from reelray.proto.model_sizes import ModelSizes
from reelray.scheduler.fleet.ticket import EngineId
from reelray.workers.models.registry import measure_checkpoint

CPU = "cpu"


class EngineOffers:
    """The engines of a house that take work.

    Args:
        house: Its name.
        models: What it serves.
    """

    def __init__(self, house: str, models: ServedModels) -> None:
        self._house, self._models = house, models
        self._known: dict[EngineId, EngineOffer] = {}
        self._paces: dict[EngineId, float] = {}

    def known(self) -> tuple[EngineOffer, ...]:
        """Those that were there the last time."""
        return tuple(self._known.values())

    def changes(self) -> tuple[list[EngineOffer], list[EngineId]]:
        """Those that came, and those that went, since the last time."""
        ready = {self._name(model): model for model in self._models if model.is_ready}
        went = [name for name in self._known if name not in ready]
        came = [self._offer(model) for name, model in ready.items() if name not in self._known]
        for name in went:
            del self._known[name]
        self._known |= {offer.engine_id: offer for offer in came}
        return came, went

    def measured(self, engine_id: EngineId, work_s: float, took_s: float) -> float | None:
        """Take a measurement into an engine's pace: the first as it is, later ones by half.

        Args:
            engine_id: The engine.
            work_s: Seconds by the table.
            took_s: Seconds that it took.

        Returns:
            The pace; None where the table knew nothing.
        """
        if work_s <= 0 or took_s <= 0:
            return None
        ratio = took_s / work_s
        pace = self._paces.get(engine_id)
        self._paces[engine_id] = pace = ratio if pace is None else (pace * ratio) ** 0.5
        if engine_id in self._known:
            self._known[engine_id] = replace(self._known[engine_id], pace=pace)
        return pace

    def _name(self, model: ServedModel) -> EngineId:
        return EngineId(f"{self._house}/{model.entry.name}")

    def _offer(self, model: ServedModel) -> EngineOffer:
        about, name = model.description, self._name(model)
        on_gpus = about.device != CPU
        return EngineOffer(
            engine_id=name,
            model=model.entry.name,
            digest=about.digest,
            facts=about.facts,
            sizes=_measure(model.entry.path),
            layout=about.layout,
            decode_ranks=about.decode_ranks,
            residency=about.residency,
            on_gpus=on_gpus,
            memory_bytes=_gpu_bytes() if on_gpus else 0,
            pace=self._paces.get(name, 1.0),
            together=model.together,
        )


@cache
def _measure(folder: Path) -> ModelSizes | None:
    try:
        return measure_checkpoint(folder)
    except (ReelrayError, OSError):
        return None


@cache
def _gpu_bytes() -> int:
    return min((gpu.memory_bytes for gpu in list_gpus()), default=0)
