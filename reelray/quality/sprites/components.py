"""Connected pieces of masks on a canvas whose edges meet, as sprites leave at one edge and enter at the other."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Pieces:
    """All pieces of a clip's mask; P pixels, N pieces.

    Args:
        frame_P: Frame of each pixel of the mask, ascending.
        row_P: Row of each pixel.
        column_P: Column of each pixel.
        piece_P: Piece that each pixel belongs to, 0..N-1.
        frame_N: Frame of each piece.
        area_N: Pixels of each piece.
    """

    frame_P: NDArray[np.intp]
    row_P: NDArray[np.intp]
    column_P: NDArray[np.intp]
    piece_P: NDArray[np.intp]
    frame_N: NDArray[np.intp]
    area_N: NDArray[np.intp]


def find_pieces(mask_THW: NDArray[np.bool_]) -> Pieces:
    """Split every frame's mask into pieces whose pixels touch, corners included, also across the canvas' edges."""
    t, row, column = np.nonzero(mask_THW)
    height, width = mask_THW.shape[1:]
    if not len(t):
        empty = np.zeros(0, np.intp)
        return Pieces(frame_P=t, row_P=row, column_P=column, piece_P=empty, frame_N=empty, area_N=empty)
    line = t * height + row
    starts = np.flatnonzero(np.r_[True, (np.diff(line) != 0) | (np.diff(column) != 1)])
    lengths = np.diff(np.r_[starts, len(t)])
    roots = _join_runs(line[starts].tolist(), column[starts].tolist(), lengths.tolist(), height, width)
    kept, piece = np.unique(roots, return_inverse=True)
    piece_P = np.repeat(piece, lengths)
    area_N = np.bincount(piece_P)
    return Pieces(frame_P=t, row_P=row, column_P=column, piece_P=piece_P, frame_N=t[starts[kept]], area_N=area_N)


def _join_runs(lines: list[int], columns: list[int], lengths: list[int], height: int, width: int) -> list[int]:
    """Root of each horizontal run of pixels after joining all runs that touch."""
    parent = list(range(len(lines)))

    def find(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    def join(a: int, b: int) -> None:
        root_a, root_b = find(a), find(b)
        parent[max(root_a, root_b)] = min(root_a, root_b)

    on_line: defaultdict[int, list[int]] = defaultdict(list)
    for run, line in enumerate(lines):
        on_line[line].append(run)
    for line, runs in on_line.items():
        below = line + 1 if (line + 1) % height else line + 1 - height
        neighbours = on_line.get(below, [])
        for a in runs:
            for b in neighbours:
                if columns[a] <= columns[b] + lengths[b] and columns[b] <= columns[a] + lengths[a]:
                    join(a, b)
        if len(runs) > 1 and columns[runs[0]] == 0 and columns[runs[-1]] + lengths[runs[-1]] == width:
            join(runs[0], runs[-1])
    return [find(run) for run in range(len(parent))]
