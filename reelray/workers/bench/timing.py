"""Times what all ranks do together. Everything here is a collective of the world: every rank calls it."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

Run = Callable[[], Any]


def start_together(device: torch.device) -> None:
    """Wait until every rank is here, with nothing left to do on its device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        dist.barrier(device_ids=[device.index])
    else:
        dist.barrier()


def time_once(run: Run, device: torch.device) -> float:
    """Milliseconds of one run on this rank; by device events on CUDA. Not a collective by itself."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    torch.cuda.synchronize(device)
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    before.record()
    run()
    after.record()
    torch.cuda.synchronize(device)
    return float(before.elapsed_time(after))


def time_interleaved(
    contenders: Mapping[str, Run], device: torch.device, *, runs: int, warmup: int, stop_at_s: float
) -> dict[str, list[float]]:
    """Time contenders in turn, so that clocks and temperature are the same for all.

    Args:
        contenders: Name and what to run; the same order on every rank.
        device: Device of this rank.
        runs: Timed rounds.
        warmup: Untimed rounds first.
        stop_at_s: On the clock of `time.monotonic`: no round but the first begins that would end later.

    Returns:
        Milliseconds of this rank by contender, one per round.
    """
    for _ in range(warmup):
        for run in contenders.values():
            run()
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(runs):
        began = time.monotonic()
        for name, run in contenders.items():
            start_together(device)
            samples[name].append(time_once(run, device))
        now = time.monotonic()
        if not all_agree(now + (now - began) < stop_at_s, device):
            break
    return samples


def time_short(run: Run, device: torch.device, *, samples: int = 7, repeats: int = 1) -> float:
    """Median milliseconds of one call on this rank.

    Args:
        run: What to run.
        device: Device of this rank.
        samples: Timed samples, after two untimed calls.
        repeats: Calls in each sample, for those of microseconds.
    """

    def repeat() -> None:
        for _ in range(repeats):
            run()

    run(), run()
    found = []
    for _ in range(samples):
        start_together(device)
        found.append(time_once(repeat, device) / repeats)
    return statistics.median(found)


def all_agree(own: bool, device: torch.device) -> bool:
    """Whether it is true on every rank."""
    vote = torch.tensor([int(own)], device=device)
    dist.all_reduce(vote, op=dist.ReduceOp.MIN)
    return bool(vote.item())


def gather(value: Any) -> list[Any]:
    """What every rank has, in the order of the ranks; picklable."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def relative_error(value: Tensor, reference: Tensor) -> float:
    """‖value - reference‖ / ‖reference‖ in float32; NaN stays NaN."""
    wanted = reference.float()
    return float((value.float() - wanted).norm() / wanted.norm())
