"""Shapes and lists of `benchmarks.block_attention`: what each case attends and what it has to reach.

Shape suffixes: B batch, N heads, Q blocks of queries, G blocks of keys, C capacity of a list.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reelray.kernels.block_attention.lists import BlockLists

FRAME_TOKENS = 1560
CHUNK_TOKENS = 4680


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One shape with one kind of lists.

    Args:
        name: In tables.
        heads: N.
        queries: Tokens of queries.
        keys: Tokens of keys.
        query_rows: Of a block of queries.
        key_rows: Of a block of keys.
        draw: Which blocks are attended, from (N, Q, G) and a generator: bool [N, Q, G].
        target: TFLOP/s on computed blocks to reach, or None.
        gate: TFLOP/s below which the kernel is not worth having, or None.
        target_ms: Time to reach, or None.
        width: D.
        paged: Keys lie on pages of `key_rows`, each chunk of `CHUNK_TOKENS` begins a page.
        uneven: Lists differ in length: also in order of length, and beside even ones of the same density.
        flex: FlexAttention runs beside it.
    """

    name: str
    heads: int
    queries: int
    keys: int
    query_rows: int
    key_rows: int
    draw: Callable[[int, int, int, torch.Generator], Tensor]
    target: float | None = None
    gate: float | None = None
    target_ms: float | None = None
    width: int = 128
    paged: bool = False
    uneven: bool = False
    flex: bool = False

    @property
    def blocks(self) -> tuple[int, int]:
        """Blocks of queries and of keys."""
        keys = self.chunks * self.pages if self.paged else -(-self.keys // self.key_rows)
        return -(-self.queries // self.query_rows), keys

    @property
    def chunk_tokens(self) -> int:
        """Tokens that begin a page together."""
        return min(CHUNK_TOKENS, self.keys)

    @property
    def chunks(self) -> int:
        """Chunks of keys on pages."""
        return self.keys // self.chunk_tokens

    @property
    def pages(self) -> int:
        """Pages of a chunk."""
        return -(-self.chunk_tokens // self.key_rows)

    def tiny(self) -> "Case":
        """The same at a size that a CPU can do."""
        rows = [rows // 2 for rows in (self.query_rows, self.key_rows)]
        return replace(
            self, heads=1, queries=min(self.queries, 150), keys=min(self.keys, 300), query_rows=rows[0],
            key_rows=rows[1], width=64, draw=draw_half if self.draw is draw_windows else self.draw,
        )  # fmt: skip

    def lists(self, device: torch.device, seed: int = 0) -> BlockLists:
        """The case's lists."""
        mask_NQG = self.draw(self.heads, *self.blocks, torch.Generator(device).manual_seed(seed))
        length_G = None
        if self.paged:
            row = torch.arange(self.chunks * self.pages, device=device) % self.pages
            length_G = (self.chunk_tokens - row * self.key_rows).clamp(max=self.key_rows).int()
        return self.of_mask(mask_NQG, length_G)

    def of_mask(self, mask_NQG: Tensor, length_G: Tensor | None = None) -> BlockLists:
        """Lists of given blocks."""
        return BlockLists.of_mask(mask_NQG[None], query_rows=self.query_rows, key_rows=self.key_rows, length_G=length_G)


def draw_all(heads: int, queries: int, keys: int, generator: torch.Generator) -> Tensor:
    """Every block."""
    return torch.ones(heads, queries, keys, dtype=torch.bool, device=generator.device)


def draw_some(count: Callable[[int], int]) -> Callable[[int, int, int, torch.Generator], Tensor]:
    """As many random blocks for each block of queries as `count` says of all."""

    def draw(heads: int, queries: int, keys: int, generator: torch.Generator) -> Tensor:
        score_NQG = torch.rand(heads, queries, keys, device=generator.device, generator=generator)
        picked = score_NQG.topk(max(1, min(keys, count(keys))), -1).indices
        return torch.zeros_like(score_NQG, dtype=torch.bool).scatter_(-1, picked, True)

    return draw


def density(share: float) -> Callable[[int, int, int, torch.Generator], Tensor]:
    """A share of the blocks, the same for every block of queries."""
    return draw_some(lambda keys: round(share * keys))


draw_half = density(0.5)


def draw_windows(heads: int, queries: int, keys: int, generator: torch.Generator) -> Tensor:
    """A window of 3 x 3 x 3 tiles in a video of 5 x 6 x 10, moved inwards at the borders."""
    grid, reach = (5, 6, 10), 1
    place = torch.cartesian_prod(*(torch.arange(size) for size in grid)).to(generator.device)
    middle = torch.stack([place[:, a].clamp(reach, grid[a] - 1 - reach) for a in range(3)], -1)
    near = ((place[None] - middle[:, None]).abs() <= reach).all(-1)
    return near.expand(heads, queries, keys)


def draw_mass(heads: int, queries: int, keys: int, generator: torch.Generator) -> Tensor:
    """Random blocks of very different counts, as a rule that keeps a share of the softmax mass gives."""
    device = generator.device
    share_NQ1 = torch.randn(heads, queries, 1, device=device, generator=generator).mul(0.7).sub(1.6).exp()
    mask_NQG = torch.rand(heads, queries, keys, device=device, generator=generator) < share_NQ1.clamp(0.02, 1.0)
    mask_NQG[..., 0] = True
    return mask_NQG


def draw_radial(heads: int, queries: int, keys: int, generator: torch.Generator) -> Tensor:
    """Every block of near frames; at each doubling of the distance every second of the rest."""
    frame_Q, frame_G = (torch.arange(n, device=generator.device) * 21 // n for n in (queries, keys))
    apart_QG = (frame_Q[:, None] - frame_G[None]).abs()
    every_QG = 2 ** (apart_QG.clamp(min=1).float().log2().floor().long())
    every_QG = torch.where(frame_G == 0, 1, every_QG)
    number = torch.arange(keys, device=generator.device)
    return ((number + torch.arange(queries, device=generator.device)[:, None]) % every_QG == 0).expand(heads, -1, -1)


def draw_causal(heads: int, queries: int, keys: int, generator: torch.Generator) -> Tensor:
    """All frames up to one's own."""
    frame_Q, frame_G = (torch.arange(n, device=generator.device) * 21 // n for n in (queries, keys))
    return (frame_G[None] <= frame_Q[:, None]).expand(heads, -1, -1)


def _even(name: str, share: float, rows: tuple[int, int], target: float, **more: float | bool) -> Case:
    draw = draw_all if share >= 1 else density(share)
    return Case(
        name=name, heads=12, queries=32760, keys=32760, query_rows=rows[0], key_rows=rows[1], draw=draw, target=target,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def _chunk(name: str, heads: int, keys: int, target_ms: float) -> Case:
    return Case(
        name=name, heads=heads, queries=CHUNK_TOKENS, keys=keys, query_rows=128, key_rows=128, draw=draw_all,
        target_ms=target_ms, paged=True,
    )  # fmt: skip


SHARES = {0.5: 460.0, 0.25: 450.0, 0.1: 430.0, 0.05: 400.0}
CASES = (
    _even("A1 density 1", 1.0, (128, 128), 480, gate=450, flex=True),
    *(_even(f"A2 density {share}, 128x128", share, (128, 128), to, flex=True) for share, to in SHARES.items()),
    *(_even(f"A2 density {share}, 128x64", share, (128, 64), to) for share, to in SHARES.items()),
    Case(
        name="A3 64x64, 64 blocks", heads=7, queries=109632, keys=109632, query_rows=64, key_rows=64,
        draw=draw_some(lambda _: 64), target=317, gate=280,
    ),
    Case(
        name="A4 sliding tiles", heads=24, queries=115200, keys=115200, query_rows=384, key_rows=384,
        draw=draw_windows, target=450, gate=406,
    ),
    replace(_even("A5 softmax mass", 0.25, (128, 128), 405), draw=draw_mass, uneven=True),
    replace(_even("A5 radial", 0.25, (128, 128), 405), draw=draw_radial, uneven=True),
    replace(_even("A5 frame-causal", 0.5, (128, 128), 414), draw=draw_causal, uneven=True),
    replace(_even("A6 8 blocks", 0.03, (128, 128), 320, gate=250), draw=draw_some(lambda _: 8)),
    replace(_even("A7 tiles of 126 tokens", 0.25, (126, 126), 400)),
    replace(_even("A7 tiles of 60 tokens", 0.25, (60, 60), 250)),
    replace(_even("D 64, density 0.25", 0.25, (128, 128), 300), width=64),
    _chunk("P 12 heads, 32 760 keys", 12, 32760, 2.1),
    _chunk("P 12 heads, 18 720 keys", 12, 18720, 1.2),
    _chunk("P 6 heads, 32 760 keys", 6, 32760, 1.1),
    _chunk("P 12 heads, 4 680 keys", 12, 4680, 0.35),
)  # fmt: skip


def count_flop(case: Case, lists: BlockLists) -> tuple[float, float]:
    """Operations of the listed blocks: of whole blocks, and of the tokens that are there."""
    queries, keys = case.blocks
    device = lists.count_BNQ.device
    mask_NQG = lists.mask(keys)[0].double()
    number = torch.arange(keys, device=device)
    length_G = lists.length_G
    if length_G is None:
        length_G = (case.keys - number * case.key_rows).clamp(max=case.key_rows)
    first = torch.arange(queries, device=device) * case.query_rows
    rows_Q = (case.queries - first).clamp(max=case.query_rows).double()
    useful = float(((mask_NQG @ length_G.double()) * rows_Q).sum())
    whole = float(mask_NQG.sum()) * case.query_rows * case.key_rows
    heads = case.heads / len(mask_NQG)
    return 4 * case.width * heads * whole, 4 * case.width * heads * useful
