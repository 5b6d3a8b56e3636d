"""Rotary angles of video tokens at explicit positions.

Shape suffixes: B batch, T latent frames, S tokens, P rotated pairs of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

THETA = 10000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Positions:
    """Where a window's tokens stand.

    Args:
        frames: Temporal position of each latent frame, integer, shape [T] or [B, T], on the model's device.
        row_offset: Position of the first token row; a rank that holds lower rows of a picture sets it.
        column_offset: Position of the first token column.
    """

    frames: Tensor
    row_offset: int = 0
    column_offset: int = 0

    def __post_init__(self) -> None:
        if self.frames.ndim not in {1, 2} or self.frames.is_floating_point():
            shape = list(self.frames.shape)
            raise ValueError(f"frames is {self.frames.dtype} of shape {shape}; it must be integer, [T] or [B, T]")
        if self.row_offset < 0 or self.column_offset < 0:
            raise ValueError(f"offsets are {self.row_offset}, {self.column_offset}; they must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotation:
    """Cosine and sine of every token's angles, [B, S, P] float32; B is 1 where all rows share positions."""

    cos: Tensor
    sin: Tensor


class RotaryTable(nn.Module):
    """Cosines and sines of every position on the three axes, computed once in float64."""

    time_cos: Tensor
    time_sin: Tensor
    row_cos: Tensor
    row_sin: Tensor
    column_cos: Tensor
    column_sin: Tensor

    def __init__(self, dims: tuple[int, int, int], length: int) -> None:
        super().__init__()
        self.dims = dims
        self.length = length
        self.fill("cpu")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # A cast to half precision moves the tables but must not round them.
        del recurse
        self.fill(fn(torch.empty(0, device=self.time_cos.device)).device)
        return self

    def fill(self, device: torch.device | str) -> None:
        """Compute the tables on `device`, also when the module was built on the meta device."""
        for name, dim in zip(("time", "row", "column"), self.dims, strict=True):
            exponents = torch.arange(0, dim, 2, dtype=torch.float64, device="cpu") / dim
            places = torch.arange(self.length, dtype=torch.float64, device="cpu")
            angles = torch.outer(places, THETA**-exponents)
            self.register_buffer(f"{name}_cos", angles.cos().float().to(device), persistent=False)
            self.register_buffer(f"{name}_sin", angles.sin().float().to(device), persistent=False)

    def check(self, positions: Positions, rows: int, columns: int) -> None:
        """Refuse pictures that reach beyond the table.

        Raises:
            ValueError: A row or column does.
        """
        last = max(positions.row_offset + rows, positions.column_offset + columns)
        if last > self.length:
            raise ValueError(f"rows and columns reach {last}; the rotary table ends at {self.length}")

    def forward(self, positions: Positions, rows: int, columns: int) -> Rotation:
        """Look up the angles of T x rows x columns tokens.

        Args:
            positions: Temporal positions and offsets.
            rows: Token rows of a latent frame.
            columns: Token columns.

        Returns:
            Tables of shape [1 or B, T * rows * columns, P].

        Raises:
            ValueError: A row or column lies beyond the table.
        """
        self.check(positions, rows, columns)
        frames_BT = positions.frames if positions.frames.ndim == 2 else positions.frames[None]
        row_slice = slice(positions.row_offset, positions.row_offset + rows)
        column_slice = slice(positions.column_offset, positions.column_offset + columns)

        def join(time: Tensor, row: Tensor, column: Tensor) -> Tensor:
            grid = (*frames_BT.shape, rows, columns, -1)
            parts = (
                time[frames_BT][:, :, None, None].expand(grid),
                row[row_slice][None, None, :, None].expand(grid),
                column[column_slice][None, None, None].expand(grid),
            )
            return torch.cat(parts, dim=-1).flatten(1, 3)

        return Rotation(
            cos=join(self.time_cos, self.row_cos, self.column_cos),
            sin=join(self.time_sin, self.row_sin, self.column_sin),
        )
