"""What both training stages share: schedule of the learning rate, averaged weights, checkpoints, a log."""

import copy
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimisation:
    """AdamW with a warm-up and a cosine to a tenth.

    Args:
        learning_rate: Peak.
        warmup_steps: Linear from zero.
        weight_decay: Applied to matrices and filters only.
        ema: Decay of the averaged weights.
        clip: Largest gradient norm.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 1.0


M = TypeVar("M", bound=nn.Module)


class Trainer(Generic[M]):
    """Optimiser, averaged copy and log of one module.

    Args:
        module: What is trained; parameters stay float32.
        settings: Optimisation settings.
        total_steps: Length of the cosine.
        folder: Where the log and the checkpoints go.
    """

    def __init__(self, module: M, settings: Optimisation, total_steps: int, folder: Path) -> None:
        self.module = module
        self.settings = settings
        self.total_steps = total_steps
        self.folder = folder
        self.step = 0
        self.average: M = copy.deepcopy(module)
        self.average.requires_grad_(requires_grad=False)
        parameters = [p for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99), fused=True)
        self.started = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)

    def learning_rate(self) -> float:
        """Learning rate of the current step."""
        warm = min(1.0, (self.step + 1) / self.settings.warmup_steps)
        progress = min(1.0, self.step / self.total_steps)
        return self.settings.learning_rate * warm * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))

    def update(self, loss: torch.Tensor) -> torch.Tensor:
        """Take one optimiser step; return the gradient norm before clipping."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip)
        self.optimiser.step()
        self.step += 1
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            averages = [p.data for p in self.average.parameters()]
            torch._foreach_lerp_(averages, [p.data for p in self.module.parameters()], 1 - decay)
        return norm

    def log(self, **values: Any) -> None:
        """Append one line to `log.jsonl` and print it."""
        row = {"step": self.step, "seconds": round(time.monotonic() - self.started, 1), **values}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def save(self, name: str = "state.pt") -> Path:
        """Write everything needed to go on."""
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
