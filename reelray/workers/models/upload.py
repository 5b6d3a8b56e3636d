"""Small things that a forward is told by the host."""

from torch import Tensor, device


def upload(values: Tensor, place: device) -> Tensor:
    """Values on a device, which has them before what it is told next; a GPU's host does not wait for it."""
    if place.type != "cuda":
        return values.to(place)
    return values.pin_memory().to(place, non_blocking=True)  # torch keeps the pinned copy until it was read
