import math

import pytest
import torch

from reelray.quality.sprites.shapes import EXTENT, signed_distance
from reelray.quality.sprites.vocabulary import SHAPES


def grid(count: int = 401) -> tuple[torch.Tensor, torch.Tensor]:
    axis = torch.linspace(-2, 2, count)
    return axis[None, :].expand(count, -1), axis[:, None].expand(-1, count)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_is_a_distance_near_itself(shape: str) -> None:
    x, y = grid()
    distance = signed_distance(shape, x, y)
    slope = torch.stack(torch.gradient(distance, spacing=0.01)).norm(dim=0)
    outside = (distance > 0.02) & (distance < 0.2)
    assert (slope[outside] - 1).abs().mean() < 0.01
    assert signed_distance(shape, torch.zeros(1), torch.zeros(1)) < -0.2


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_fits_its_circle_and_has_a_like_area(shape: str) -> None:
    x, y = grid()
    inside = signed_distance(shape, x, y) < 0
    assert torch.hypot(x, y)[inside].amax() <= EXTENT
    assert 1.7 < inside.float().mean() * 16 < 2.9


def test_the_star_has_five_arms_and_one_points_up() -> None:
    angle = torch.linspace(0, 2 * math.pi, 720)
    ring = signed_distance("star", torch.sin(angle), -torch.cos(angle)) < 0
    assert (ring[1:] & ~ring[:-1]).sum() == 5
    assert ring[0]


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="hexagon"):
        signed_distance("hexagon", torch.zeros(1), torch.zeros(1))
