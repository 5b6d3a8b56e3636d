"""The GPUs that a plan is made for; they need not be here."""

from dataclasses import dataclass
from enum import StrEnum

from reelray.proto.errors import InputError

MAX_GPUS = 64


class Link(StrEnum):
    """What joins the GPUs."""

    NVLINK = "nvlink"
    PCIE = "pcie"
    NONE = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """GPUs of one kind.

    Args:
        gpus: How many.
        memory_bytes: Of each.
        link: What joins them; without a link every GPU works alone.

    Raises:
        InputError: There are no GPUs, more than a plan is made for, or they have no memory.
    """

    gpus: int
    memory_bytes: int
    link: Link = Link.NVLINK

    def __post_init__(self) -> None:
        if not 1 <= self.gpus <= MAX_GPUS:
            raise InputError(f"gpus is {self.gpus}; a plan is made for 1 to {MAX_GPUS}")
        if self.memory_bytes < 1:
            raise InputError(f"memory of {self.memory_bytes} bytes per GPU is none")
