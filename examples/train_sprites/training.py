"""What both training stages share: schedule of the learning rate, averaged weights, checkpoints, a log."""

import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from examples.train_sprites.optimisers import Muon, split_for_muon
from examples.train_sprites.ranks import Ranks
from examples.train_sprites.state_parts import pack, unpack

RESUME_WARMUP = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimisation:
    """AdamW, and Muon where asked, with a warm-up and a cosine.

    Args:
        learning_rate: Peak.
        matrix_rate: Peak for the matrices that Muon steps.
        own_rates: Peaks of AdamW for parameters whose names begin so, in place of `learning_rate`.
        muon_prefixes: Names of modules whose linear layers Muon steps; none means AdamW for all.
        warmup_steps: Linear from zero.
        final: Share of the peak at the end of the cosine.
        betas: Decays of AdamW's moments.
        weight_decay: Applied to matrices and filters only.
        ema: Largest decay of the averaged weights.
        ema_power: The average reaches back over about a share of 1 / `ema_power` of the run so far.
        clip: Largest gradient norm.
    """

    learning_rate: float = 1e-3
    matrix_rate: float = 3e-3
    own_rates: tuple[tuple[str, float], ...] = ()
    muon_prefixes: tuple[str, ...] = ()
    warmup_steps: int = 200
    final: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    ema: float = 0.999
    ema_power: float = 9.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must be at least 0 and below 1")
        if self.warmup_steps < 1:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; it must be at least 1")


M = TypeVar("M", bound=nn.Module)


class Trainer(Generic[M]):
    """Optimisers, averaged copy and log of one module.

    Args:
        module: What is trained; parameters stay float32.
        settings: Optimisation settings.
        total_steps: Length of the cosine; None when the caller sets `progress` before each step.
        folder: Where the log and the checkpoints go.
        ranks: The processes that train together.
    """

    def __init__(
        self, module: M, settings: Optimisation, total_steps: int | None, folder: Path, ranks: Ranks | None = None
    ) -> None:
        self.module, self.settings, self.total_steps, self.folder = module, settings, total_steps, folder
        self.ranks = ranks or Ranks()
        self.step, self.progress, self.begun_at = 0, 0.0, 0
        self.ranks.copy_from_first(p.data for p in module.parameters())
        self.average: M = copy.deepcopy(module)
        self.average.requires_grad_(requires_grad=False)
        matrices, others = split_for_muon(module, settings.muon_prefixes)
        self.muon = Muon(matrices) if settings.muon_prefixes else None
        if self.muon is None:
            others = [p for p in module.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self._groups(others), betas=settings.betas, fused=True)
        self.started = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)

    def rate_share(self) -> float:
        """Share of the peak learning rates at the current step; after `load_compact` it warms up again, briefly."""
        warm = min(1.0, (self.step + 1) / self.settings.warmup_steps)
        if self.begun_at:
            warm = min(warm, (self.step - self.begun_at + 1) / RESUME_WARMUP)
        if self.total_steps is not None:
            self.progress = min(1.0, self.step / self.total_steps)
        final = self.settings.final
        return warm * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * self.progress)))

    def update(self, loss: Tensor) -> Tensor:
        """Take one optimiser step; return the gradient norm before clipping. Every rank must call it."""
        share = self.rate_share()
        for group in self.optimiser.param_groups:
            group["lr"] = share * group["peak"]
        self.module.zero_grad(set_to_none=True)  # the optimiser's own would leave out what Muon steps
        loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.average_gradients(self.module.parameters())
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip, foreach=True)
        self.optimiser.step()
        if self.muon is not None:
            self.muon.step(share * self.settings.matrix_rate)
        self.step += 1
        decay = min(self.settings.ema, (1 + self.step) / (1 + self.settings.ema_power + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(_data(self.average), _data(self.module), 1 - decay)
        return norm

    def _groups(self, parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
        """Parameters of AdamW by peak of their rate, vectors without decay."""
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        peaks = [self._peak(names[id(parameter)]) for parameter in parameters]
        return [
            {
                "params": [
                    p for p, own in zip(parameters, peaks, strict=True) if own == peak and (p.ndim > 1) is matrix
                ],
                "weight_decay": self.settings.weight_decay if matrix else 0.0,
                "lr": peak,
                "peak": peak,
            }
            for peak in dict.fromkeys(peaks)
            for matrix in (True, False)
        ]

    def _peak(self, name: str) -> float:
        own = (rate for prefix, rate in self.settings.own_rates if name.startswith(prefix))
        return next(own, self.settings.learning_rate)

    def log(self, **values: Any) -> None:
        """Append one line to `log.jsonl` and print it; on rank 0 only."""
        if not self.ranks.leads:
            return
        row = {"step": self.step, "seconds": round(time.monotonic() - self.started, 1), **values}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def save(self, name: str = "state.pt") -> Path:
        """Write everything needed to go on exactly."""
        path = self.folder / name
        torch.save(
            {
                "step": self.step,
                "module": self.module.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
            },
            path,
        )
        return path

    def load(self, path: Path) -> None:
        """Go on from `save`."""
        state = torch.load(path, map_location=next(self.module.parameters()).device, weights_only=True)
        self.step = int(state["step"])
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])

    def compact_state(self) -> dict[str, Any]:
        """The state in five and a half bytes a weight.

        Weights keep 24 bits, their average float16, AdamW's moments bfloat16. Muon's momentum is left out: it reaches
        back over twenty steps and is full again before the short warm-up after a resumption ends.
        """
        moments = [self.optimiser.state.get(p, {}) for p in self._adam_parameters()]
        return {
            "step": self.step,
            "progress": self.progress,
            "weights": {name: pack(p) for name, p in self.module.named_parameters()},
            "average": {name: p.half().cpu() for name, p in self.average.named_parameters()},
            "moments": [
                {name: value.bfloat16().cpu() if value.ndim else value.cpu() for name, value in moment.items()}
                for moment in moments
            ],
        }

    @torch.no_grad()
    def load_compact(self, state: dict[str, Any]) -> None:
        """Go on from `compact_state`."""
        self.step, self.progress = int(state["step"]), float(state["progress"])
        self.begun_at = self.step
        for name, weight in self.module.named_parameters():
            weight.copy_(unpack(state["weights"][name], weight.shape))
        for name, weight in self.average.named_parameters():
            weight.copy_(state["average"][name])
        for weight, moment in zip(self._adam_parameters(), state["moments"], strict=True):
            self.optimiser.state[weight] = {
                name: value.to(weight.device, torch.float32) for name, value in moment.items()
            }

    def _adam_parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimiser.param_groups for p in group["params"]]


def _data(module: nn.Module) -> list[Tensor]:
    return [p.data for p in module.parameters()]
