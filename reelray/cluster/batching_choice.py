"""Whether windows of several requests share a forward, by the settings and what was measured of the device."""

from typing import TYPE_CHECKING

from reelray.scheduler.batching import Batching

if TYPE_CHECKING:
    from reelray.cluster.settings import Settings

CPU_KNEE_TOKENS = 768
"""Measured with the packaged model on two cores: `benchmarks/results/joint_forward_cpu.json`."""
CPU_MOST = 8


def choose_batching(settings: "Settings", *, on_gpus: bool) -> Batching:
    """The rule by which an engine goes.

    With `auto` forwards are shared on CPUs only: on GPUs nobody has measured yet where it begins to pay.

    Args:
        settings: `batch`, `batch_tokens` and `batch_invariant` are read.
        on_gpus: Where the engine runs.
    """
    match settings.batch:
        case "auto":
            most = 1 if on_gpus else CPU_MOST
        case "off":
            most = 1
        case number:
            most = int(number)
    return Batching(
        most=most,
        knee_tokens=settings.batch_tokens or CPU_KNEE_TOKENS,
        invariant=settings.batch_invariant,
    )
