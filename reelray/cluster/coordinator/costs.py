"""What work costs on an engine: by the plan's measured table, times the pace that the engine was measured at."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from reelray.cluster.calibration import load_calibration
from reelray.cluster.coordinator.messages import Clip, EngineOffer
from reelray.cluster.plan_request import count_guided_steps
from reelray.proto.errors import ReelrayError
from reelray.proto.model_facts import ModelFacts
from reelray.proto.model_sizes import ModelSizes
from reelray.scheduler.plan.calibration import Calibration
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.machine import Machine
from reelray.scheduler.plan.prediction import Prediction, predict

KEPT = 1024
"""Predictions of so many different clips are kept."""
UNKNOWN_S = 1.0
"""Where nothing can be predicted; what cannot be made fails quickly."""
LEAST_S = 1e-3
ENDLESS = 1 << 62
HEAD_WIDTH = 128
DECODER_FLOPS, DECODER_BYTES, DECODER_PARAMETERS = 2_000_000_000, 800_000, 70_000_000
"""Of a Wan-like VAE per latent cell, where the files of a model are not here: the order of magnitude."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a clip takes of one engine.

    Args:
        seconds: From first step to last frame, by number of GPUs.
        memory_bytes: Over these GPUs, weights included.
    """

    seconds: Mapping[int, float]
    memory_bytes: int


class CostTable:
    """Predicts each kind of clip once for each kind of engine."""

    def __init__(self) -> None:
        self._table = load_calibration()
        self._cached = lru_cache(maxsize=KEPT)(self._predict)

    def cost(self, offer: EngineOffer, clip: Clip | None) -> Cost:
        """Cost of a clip on an engine, its decode included. Memory is never more than the engine has."""
        gpus = offer.layout.lane
        row = None if clip is None else self._row(offer, clip)
        if row is None:
            return Cost(seconds={gpus: UNKNOWN_S}, memory_bytes=0)
        needed = row.peak_bytes if not offer.memory_bytes else min(row.peak_bytes, offer.memory_bytes)
        return Cost(seconds={gpus: max(LEAST_S, row.clip_s * offer.pace)}, memory_bytes=int(gpus * needed))

    def memory_bytes(self, offer: EngineOffer) -> int:
        """Bytes of an engine that its work can have, weights included; as good as endless where nobody counts."""
        return offer.memory_bytes * offer.layout.ranks or ENDLESS

    def steps(self, offer: EngineOffer, clip: Clip) -> int:
        """Denoise steps of a clip, over all its chunks."""
        job = _job(offer, clip)
        return sum(job.window_steps) * len(job.windows)

    def _row(self, offer: EngineOffer, clip: Clip) -> Prediction | None:
        try:
            return self._cached(replace(offer, pace=1.0), clip)
        except (ReelrayError, ValueError, ArithmeticError):
            return None

    def _predict(self, offer: EngineOffer, clip: Clip) -> Prediction:
        return _predict(offer, clip, self._table)


def _predict(offer: EngineOffer, clip: Clip, table: Calibration) -> Prediction:
    machine = Machine(
        gpus=offer.layout.ranks + offer.decode_ranks, memory_bytes=offer.memory_bytes or table.memory_bytes
    )
    lane = replace(offer.layout, replica=1)
    return predict(_job(offer, clip), machine, table, lane, offer.residency, decode_ranks=offer.decode_ranks)


def _job(offer: EngineOffer, clip: Clip) -> PlanJob:
    recipe = clip.recipe
    return PlanJob(
        facts=offer.facts,
        sizes=offer.sizes or guess_sizes(offer.facts),
        width=clip.width,
        height=clip.height,
        frames=clip.frames,
        steps=recipe.schedule.length,
        guided_steps=count_guided_steps(recipe),
        chunking=recipe.chunking,
        memory=recipe.memory,
        value_bytes=2 if offer.on_gpus else 4,
    )


def guess_sizes(facts: ModelFacts) -> ModelSizes:
    """Sizes of a model whose files are elsewhere."""
    return ModelSizes(
        heads=max(1, facts.dim // HEAD_WIDTH),
        ffn_dim=4 * facts.dim,
        text_encoder_parameters=facts.parameters,
        decoder_parameters=DECODER_PARAMETERS,
        decoder_flops=DECODER_FLOPS,
        decoder_first_flops=DECODER_FLOPS,
        decoder_state_bytes=DECODER_BYTES,
        decoder_frame_bytes=DECODER_BYTES,
    )
