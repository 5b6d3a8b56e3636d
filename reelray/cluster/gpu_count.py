"""How many GPUs a render may use."""

from reelray.cluster.machine import Gpu, list_gpus
from reelray.cluster.settings import visible_devices


def usable_gpus() -> list[Gpu]:
    """GPUs of this machine that this process may use."""
    gpus, visible = list_gpus(), visible_devices()
    return gpus if visible is None else gpus[:visible]


def runs_on_gpus(device: str) -> bool:
    """Whether a render on ``auto``, ``cpu`` or ``cuda`` is one on GPUs."""
    return device == "cuda" or (device == "auto" and bool(usable_gpus()))
