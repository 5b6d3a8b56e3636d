"""The outlines of the shapes as signed distance, negative inside, in units of the object's radius; y points down.

Every outline fits a circle of 1.36 radii around its centre and covers about the same area.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from reelray.quality.sprites.vocabulary import SHAPES

EXTENT = 1.36


def signed_distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance from points to the outline of a shape of radius 1 at the origin.

    Args:
        shape: One of `SHAPES`.
        x: Any shape, to the right.
        y: Broadcastable with `x`, downwards.

    Returns:
        The distance: exact on and near the outline, never too long elsewhere.

    Raises:
        ValueError: The shape is unknown.
    """
    if shape not in _OUTLINES:
        raise ValueError(f"shape is {shape!r}; it must be one of {', '.join(SHAPES)}")
    return _OUTLINES[shape](x, y)


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.sqrt(x * x + y * y) - 0.94


def _square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.76, 0.76) - 0.08


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 0.99, 0.26), _box(x, y, 0.26, 0.99)) - 0.08


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return _pointed(x, y, points=3, outer=1.22, inner=0.61) - 0.08


def _star(x: Tensor, y: Tensor) -> Tensor:
    return _pointed(x, y, points=5, outer=1.26, inner=0.54) - 0.05


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """A square standing on its corner with a disc on each upper side."""
    half, rounding = 0.57, 0.06
    x, y = x.abs(), y - 0.15
    square = _box((x + y) * math.sqrt(0.5), (y - x) * math.sqrt(0.5), half, half)
    reach = half * math.sqrt(0.5)
    disc = torch.sqrt((x - reach) ** 2 + (y + reach) ** 2) - half
    return torch.minimum(square, disc) - rounding


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    dx, dy = x.abs() - half_width, y.abs() - half_height
    outside = torch.sqrt(dx.clamp(min=0) ** 2 + dy.clamp(min=0) ** 2)
    return outside + torch.maximum(dx, dy).clamp(max=0)


def _pointed(x: Tensor, y: Tensor, *, points: int, outer: float, inner: float) -> Tensor:
    """Distance to a star with one point up: folded into one half of one arm, the outline is one segment."""
    sector = 2 * math.pi / points
    angle = torch.atan2(x, -y)
    angle = (angle - sector * torch.round(angle / sector)).abs()
    length = torch.sqrt(x * x + y * y)
    u, v = length * torch.cos(angle), length * torch.sin(angle)
    edge_u, edge_v = inner * math.cos(sector / 2) - outer, inner * math.sin(sector / 2)
    along = (((u - outer) * edge_u + v * edge_v) / (edge_u**2 + edge_v**2)).clamp(0, 1)
    distance = torch.sqrt((u - outer - along * edge_u) ** 2 + (v - along * edge_v) ** 2)
    is_outside = (u - outer) * edge_v - v * edge_u > 0
    return torch.where(is_outside, distance, -distance)


_OUTLINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
}
