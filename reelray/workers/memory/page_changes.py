"""New pages made of others, and scores of pages, layer by layer.

Shape suffixes: S tokens, N heads, D head width.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from reelray.kernels.norm_rope.api import rotate
from reelray.workers.memory.pool import PagePool
from reelray.workers.memory.workspace import Workspace

Pages: TypeAlias = Sequence[int]
"""Of one entry."""
Angles: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and sines [1, S, P] of the tokens of some latent frames."""
Turn: TypeAlias = Callable[[Sequence[int]], Angles]
"""Angles of latent frames at these temporal positions, at least one."""
Rate: TypeAlias = Callable[[int, Tensor], Tensor]
"""Score of a latent frame by the keys [S, N, D] it has in a layer, rotated; a scalar on the device."""


def pick_pages(
    pool: PagePool, tokens: int, *, one: Pages, other: Pages, takes_other: Sequence[bool], into: Pages
) -> None:
    """Take each layer from one of two entries.

    Args:
        pool: Whose pages.
        tokens: Of an entry.
        one: Where `takes_other` is False.
        other: Where it is True.
        takes_other: Of each layer.
        into: Is written.
    """
    write = pool.writer([into], tokens)
    read_one, read_other = (pool.reader([pages], tokens) for pages in (one, other))
    for layer, takes in enumerate(takes_other):
        write(layer, *(read_other if takes else read_one)(layer))


def fold_pages(pool: PagePool, tokens: int, *, old: Pages, new: Pages, kept: float, into: Pages) -> None:
    """Write kept * old + (1 - kept) * new, computed in float32.

    Args:
        pool: Whose pages.
        tokens: Of an entry.
        old: What is there.
        new: What is folded in.
        kept: Weight of the old.
        into: Is written.
    """
    write = pool.writer([into], tokens)
    read_old, read_new = (pool.reader([pages], tokens) for pages in (old, new))
    for layer in range(pool.shape.layers):
        pairs = zip(read_old(layer), read_new(layer), strict=True)
        write(layer, *(torch.lerp(new_SND.float(), old_SND.float(), kept) for old_SND, new_SND in pairs))


def rate_pages(pool: PagePool, tokens: int, pages: Pages, frames: Sequence[int], by: tuple[Rate, Turn]) -> Tensor:
    """Score an entry by its keys, rotated.

    Args:
        pool: Whose pages.
        tokens: Of an entry.
        pages: Of the entry.
        frames: Latent frame that each layer keeps there, which says where its keys stand.
        by: Scores keys, and gives angles.

    Returns:
        A score for each layer.
    """
    rate, turn = by
    read, angles = pool.reader([pages], tokens), {frame: turn((frame,)) for frame in set(frames)}
    rated = (rate(layer, rotate(read(layer)[0][None], *angles[frame])[0]) for layer, frame in enumerate(frames))
    return torch.stack(list(rated))


def compare_pages(pool: PagePool, tokens: int, one: Pages, other: Pages) -> Tensor:
    """Products of two entries' mean tokens, which ranks that keep other heads add theirs to.

    Args:
        pool: Whose pages.
        tokens: Of an entry.
        one: Pages of an entry.
        other: Those of another.

    Returns:
        For each layer, of keys (not rotated) and of values, the product of both means and each one's with itself
        [L, 2, 3], float64.
    """
    read_one, read_other = (pool.reader([pages], tokens) for pages in (one, other))

    def products(a_SND: Tensor, b_SND: Tensor) -> Tensor:
        a_ND, b_ND = a_SND.double().mean(0), b_SND.double().mean(0)
        return torch.stack([(x * y).sum() for x, y in ((a_ND, b_ND), (a_ND, a_ND), (b_ND, b_ND))])

    layers = range(pool.shape.layers)
    pairs = (zip(read_one(layer), read_other(layer), strict=True) for layer in layers)
    return torch.stack([torch.stack([products(a, b) for a, b in pair]) for pair in pairs])


def likeness(products: Tensor) -> Tensor:
    """Mean cosine of keys and of values by `compare_pages` of all heads; the last two dimensions go."""
    both, one, other = products.unbind(-1)
    cosines: Tensor = both / (one * other).sqrt().clamp_min(1e-30)
    return cosines.mean(-1)


def lay_out_by_layer(
    pool: PagePool, tokens: int, workspace: Workspace, entries: Sequence[tuple[Pages, Sequence[int]]], turn: Turn
) -> None:
    """Lay entries out one after the other that stand elsewhere in each layer.

    Args:
        pool: Whose pages.
        tokens: Of an entry.
        workspace: Is overwritten.
        entries: Pages of each, and its temporal position in each layer.
        turn: Angles of keys.
    """
    reader = pool.reader([pages for pages, _ in entries], tokens)
    known: dict[tuple[int, ...], Angles] = {}
    for layer in range(pool.shape.layers):
        own = tuple(places[layer] for _, places in entries)
        if own not in known:
            known[own] = turn(own)
        keys_SND, values_SND = reader(layer)
        workspace.put(layer, 0, rotate(keys_SND[None], *known[own])[0], values_SND)
