"""Batches of random scenes as tensors of parameters, split into combinations for training and held-out ones."""

import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from examples.train_sprites.captions import write_caption
from reelray.quality.sprites.scene import Scene, Sprite
from reelray.quality.sprites.shapes import EXTENT
from reelray.quality.sprites.vocabulary import (
    BACKGROUNDS,
    CANVAS_HEIGHT,
    CANVAS_WIDTH,
    COLORS,
    MOTIONS,
    SHAPES,
    clashes,
    is_visible,
)

Split = Literal["train", "held_out"]
SLOTS = 2
HELD_OUT_MODULUS, HELD_OUT_RESIDUE = 11, 4
SIDEWAYS, UPRIGHT = frozenset({"left", "right"}), frozenset({"up", "down"})
# What a trained model draws wrong most often: outlines that turn, and that hurry.
RESTLESS = frozenset({"spin", "bounce"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """What a stream of random scenes holds.

    Args:
        pair_share: Share of scenes with two sprites, 0 to 1.
        restless: How many times likelier than another a scene is in which something spins or bounces.
        beige: How many times likelier beige is than chance makes it; latents on it are largest, and so are errors.
    """

    pair_share: float = 0.5
    restless: float = 1.0
    beige: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.pair_share <= 1:
            raise ValueError(f"pair_share is {self.pair_share}; it must lie in 0..1")
        if self.restless <= 0:
            raise ValueError(f"restless is {self.restless}; it must be greater than 0")
        if self.beige <= 0:
            raise ValueError(f"beige is {self.beige}; it must be greater than 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneBatch:
    """B scenes of up to K = 2 sprites; lengths in canvas pixels, all tensors on one device.

    Args:
        background_B: Index into `BACKGROUNDS`.
        tilt_B: Angle of the gradient against the vertical, radians.
        present_BK: Whether the slot holds a sprite; slot 0 always does.
        color_BK: Index into `COLORS`.
        shape_BK: Index into `SHAPES`.
        motion_BK: Index into `MOTIONS`.
        radius_BK: Radius of the sprite, at its largest if it grows or shrinks.
        x_BK: Centre at time 0 of what moves straight; else centre of the motion.
        y_BK: The same, downwards; the lowest centre for a bounce.
        speed_BK: Pixels a second of straight motions.
        rate_BK: Turns, bounces or growths a second.
        reach_BK: Radius of a circle, height of a bounce.
        phase_BK: Part of the first turn, bounce or growth already done at time 0.
    """

    background_B: Tensor
    tilt_B: Tensor
    present_BK: Tensor
    color_BK: Tensor
    shape_BK: Tensor
    motion_BK: Tensor
    radius_BK: Tensor
    x_BK: Tensor
    y_BK: Tensor
    speed_BK: Tensor
    rate_BK: Tensor
    reach_BK: Tensor
    phase_BK: Tensor

    def __len__(self) -> int:
        return len(self.background_B)

    def describe(self, index: int) -> Scene:
        """Scene `index` in words."""
        slots = range(1 + int(self.present_BK[index, 1]))
        sprites = tuple(
            Sprite(
                color=list(COLORS)[int(self.color_BK[index, k])],
                shape=SHAPES[int(self.shape_BK[index, k])],
                motion=list(MOTIONS)[int(self.motion_BK[index, k])],
            )
            for k in slots
        )
        return Scene(background=list(BACKGROUNDS)[int(self.background_B[index])], sprites=sprites)


def is_held_out(color: str, shape: str, motion: str) -> bool:
    """Whether this combination never occurs in training; every colour, shape and motion still does, about equally."""
    mixed = list(COLORS).index(color) + 3 * SHAPES.index(shape) + 5 * list(MOTIONS).index(motion)
    return mixed % HELD_OUT_MODULUS == HELD_OUT_RESIDUE


def sample_scenes(
    batch: int,
    generator: torch.Generator,
    *,
    split: Split = "train",
    pair_share: float = 0.4,
    restless: float = 1.0,
    beige: float = 1.0,
) -> SceneBatch:
    """Draw random scenes of one split; the same generator state gives the same scenes.

    Args:
        batch: Number of scenes B.
        generator: CPU generator.
        split: "train" holds no held-out combination, "held_out" nothing else.
        pair_share: Share of scenes with two sprites, 0 to 1.
        restless: How many times likelier a scene is in which something spins or bounces.
        beige: How many times likelier a beige background is.

    Returns:
        The scenes, on the CPU.
    """
    single_B = _choose(_list_combinations(split)[:, None], batch, generator, restless)[:, 0]
    pair_BK = _choose(_list_pairs(split), batch, generator, restless)
    is_pair_B = torch.rand(batch, generator=generator) < pair_share
    combination_BK = torch.where(is_pair_B[:, None], pair_BK, single_B[:, None].expand(-1, SLOTS))
    color_BK, shape_BK, motion_BK = _split_combination(combination_BK)
    table = _background_table()
    favour = torch.tensor([beige if name == "beige" else 1.0 for name in BACKGROUNDS])
    fits = table[color_BK].all(1) * favour / table.sum(0) ** 2
    background_B = torch.multinomial(fits, 1, generator=generator)[:, 0]
    return _lay_out(background_B, is_pair_B, (color_BK, shape_BK, motion_BK), generator)


def sample_held_out_captions(count: int, seed: int) -> list[tuple[str, Scene]]:
    """Captions of held-out combinations with the scenes they tell of; the same seed gives the same list."""
    scenes = sample_scenes(count, torch.Generator().manual_seed(seed), split="held_out")
    rng = random.Random(seed)
    described = [scenes.describe(index) for index in range(count)]
    return [(write_caption(scene, rng), scene) for scene in described]


def _choose(rows_PK: Tensor, batch: int, generator: torch.Generator, restless: float) -> Tensor:
    """Random rows [batch, K] of combinations."""
    if restless == 1:
        return rows_PK[torch.randint(len(rows_PK), (batch,), generator=generator)]
    _, _, motion_PK = _split_combination(rows_PK)
    weight_P = torch.where(_is_one_of(motion_PK, RESTLESS).any(1), restless, 1.0)
    return rows_PK[torch.multinomial(weight_P, batch, replacement=True, generator=generator)]


def _split_combination(combination: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    per_color = len(SHAPES) * len(MOTIONS)
    return combination // per_color, combination // len(MOTIONS) % len(SHAPES), combination % len(MOTIONS)


@cache
def _list_combinations(split: Split) -> Tensor:
    names = [(color, shape, motion) for color in COLORS for shape in SHAPES for motion in MOTIONS]
    wanted = [
        number
        for number, (color, shape, motion) in enumerate(names)
        if is_visible(shape, motion) and is_held_out(color, shape, motion) == (split == "held_out")
    ]
    return torch.tensor(wanted)


@cache
def _list_pairs(split: Split) -> Tensor:
    """Pairs [P, 2] that differ in colour and shape, share a background, and can stay in halves of the canvas."""
    combinations = _list_combinations(split)
    pairs = torch.cartesian_prod(combinations, combinations)
    color, shape, motion = _split_combination(pairs)
    sideways, upright = _is_one_of(motion, SIDEWAYS).any(1), _is_one_of(motion, UPRIGHT).any(1)
    table = _background_table()
    share_background = (table[color[:, 0]] & table[color[:, 1]]).any(1)
    differ = (color[:, 0] != color[:, 1]) & (shape[:, 0] != shape[:, 1])
    return pairs[differ & share_background & ~(sideways & upright)]


@cache
def _background_table() -> Tensor:
    """Whether colour (row) may stand on background (column)."""
    return torch.tensor([[not clashes(color, background) for background in BACKGROUNDS] for color in COLORS])


def _is_one_of(motion: Tensor, names: frozenset[str]) -> Tensor:
    return torch.isin(motion, torch.tensor([number for number, name in enumerate(MOTIONS) if name in names]))


def _lay_out(
    background_B: Tensor, is_pair_B: Tensor, looks: tuple[Tensor, Tensor, Tensor], generator: torch.Generator
) -> SceneBatch:
    """Give every sprite a cell of the canvas, then a size, a place and a pace that fit the cell."""
    color_BK, shape_BK, motion_BK = looks
    batch = len(background_B)

    def draw(low: Tensor | float, high: Tensor | float) -> Tensor:
        return low + (high - low) * torch.rand(batch, SLOTS, generator=generator)

    center_x, center_y, half_width, half_height = _cells(is_pair_B, motion_BK, generator)
    half = torch.minimum(half_width, half_height)
    sideways, upright = _is_one_of(motion_BK, SIDEWAYS), _is_one_of(motion_BK, UPRIGHT)
    circles, bounces = (_is_one_of(motion_BK, frozenset({name})) for name in ("circle", "bounce"))
    swells = _is_one_of(motion_BK, frozenset({"grow", "shrink"}))

    radius = half * 0.26 + 5.5 + draw(-1.2, 2.4)
    radius = torch.where(swells, draw(0.92, 1.0) * (half * 0.3 + 12.5).clamp(max=28.5), radius)
    extent = radius * EXTENT
    reach = torch.where(circles, draw(0.85, 1.0) * (half - extent).clamp(max=26), torch.zeros_like(radius))
    height = draw(0.85, 1.0) * (2 * (half_height - extent)).clamp(max=48)
    reach = torch.where(bounces, height, reach)
    room_x = (half_width - extent - torch.where(circles, reach, 0.0)).clamp(min=0)
    room_y = (half_height - extent - torch.where(circles, reach, torch.where(bounces, reach / 2, 0.0))).clamp(min=0)
    room_x = torch.where(sideways, CANVAS_WIDTH / 2 - extent, room_x)
    room_y = torch.where(upright, CANVAS_HEIGHT / 2 - extent, room_y)
    center_x = torch.where(sideways, torch.tensor(CANVAS_WIDTH / 2), center_x)
    center_y = torch.where(upright, torch.tensor(CANVAS_HEIGHT / 2), center_y)
    phase = torch.where(swells, draw(0.0, 0.06), draw(0.0, 1.0))
    slow_turns, bounce_rate, swell_rate = draw(0.30, 0.42), draw(0.60, 0.85), draw(0.13, 0.16)
    return SceneBatch(
        background_B=background_B,
        tilt_B=torch.rand(batch, generator=generator) - 0.5,
        present_BK=torch.stack([torch.ones_like(is_pair_B), is_pair_B], 1),
        color_BK=color_BK,
        shape_BK=shape_BK,
        motion_BK=motion_BK,
        radius_BK=radius,
        x_BK=center_x + draw(-1.0, 1.0) * room_x,
        y_BK=center_y + draw(-1.0, 1.0) * room_y + torch.where(bounces, reach / 2, 0.0),
        speed_BK=torch.where(sideways, draw(26.0, 40.0), draw(19.0, 28.0)),
        rate_BK=torch.where(bounces, bounce_rate, torch.where(swells, swell_rate, slow_turns)),
        reach_BK=reach,
        phase_BK=phase,
    )


def _cells(is_pair_B: Tensor, motion_BK: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre x and y, half width and height [B, K]: all the canvas, a row beside a sideways mover, else a column."""
    in_rows_B = _is_one_of(motion_BK, SIDEWAYS).any(1) & is_pair_B
    in_columns_B = is_pair_B & ~in_rows_B
    first_B = torch.where(torch.rand(len(is_pair_B), generator=generator) < 0.5, 1.0, -1.0)
    side_BK = torch.stack([first_B, -first_B], 1)
    rows, columns = in_rows_B[:, None].float(), in_columns_B[:, None].float()
    half_width = CANVAS_WIDTH / 2 * (1 - columns / 2).expand_as(side_BK)
    half_height = CANVAS_HEIGHT / 2 * (1 - rows / 2).expand_as(side_BK)
    center_x = CANVAS_WIDTH / 2 + side_BK * columns * CANVAS_WIDTH / 4
    center_y = CANVAS_HEIGHT / 2 + side_BK * rows * CANVAS_HEIGHT / 4
    return center_x, center_y, half_width, half_height
