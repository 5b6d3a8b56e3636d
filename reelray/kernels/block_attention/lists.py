"""Which blocks of keys each block of queries attends: the one format that routers write and kernels read.

Shape suffixes: B batch, N heads, Q blocks of queries, C capacity of a list, G blocks of keys.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlockLists:
    """Lists of key blocks, one per head and block of queries.

    Block i of a sequence is its tokens from i * rows on, at most `rows` of them; the last may be short. Keys may lie on
    pages of a pool: then a page is a block, and its number is what a list names. A list ends after its count; what
    stands behind is read ahead and not used, so that a list is never full: C is more than any count.

    Args:
        index_BNQC: Blocks of keys, ascending, int32; B and N may be 1 where all rows or heads have the same lists.
        count_BNQ: How many of each list count, int32; nothing is attended where it is 0.
        query_rows: Tokens of a block of queries.
        key_rows: Tokens of a block of keys.
        length_G: Tokens of each block of keys that are there, int32, for tiles and pages that are not full; None where
            all are but the end of the sequence.
        order_BNQ: Blocks of queries in the order in which they start, int32, every one once: the longest lists first
            where lengths differ (`longest_first`), so that no long one is left at the end. None keeps their order.

    Raises:
        ValueError: Shapes, dtypes or devices do not belong together.
    """

    index_BNQC: Tensor
    count_BNQ: Tensor
    query_rows: int
    key_rows: int
    length_G: Tensor | None = None
    order_BNQ: Tensor | None = None

    def __post_init__(self) -> None:
        index, count = self.index_BNQC, self.count_BNQ
        if index.ndim != 4 or count.shape != index.shape[:3]:
            raise ValueError(
                f"lists are [B, N, Q, C] and counts [B, N, Q]; they are {list(index.shape)} and {list(count.shape)}"
            )
        parts = {"index_BNQC": index, "count_BNQ": count}
        if self.length_G is not None:
            parts["length_G"] = self.length_G
        if self.order_BNQ is not None:
            parts["order_BNQ"] = self.order_BNQ
        for name, part in parts.items():
            if part.dtype != torch.int32:
                raise ValueError(f"{name} is {part.dtype}; it must be torch.int32")
            if part.device != index.device:
                raise ValueError(f"{name} is on {part.device}, index_BNQC on {index.device}")
        if index.shape[3] and index.stride(3) != 1:
            raise ValueError("the entries of a list must lie one after the other")
        self._check_shapes()

    def _check_shapes(self) -> None:
        if self.query_rows < 1 or self.key_rows < 1:
            raise ValueError(f"blocks have {self.query_rows} and {self.key_rows} rows; they must have at least one")
        if self.length_G is not None and self.length_G.ndim != 1:
            raise ValueError(f"length_G is {list(self.length_G.shape)}; it must have one dimension")
        if self.order_BNQ is not None and self.order_BNQ.shape != self.count_BNQ.shape:
            raise ValueError(f"order_BNQ is {list(self.order_BNQ.shape)}, counts are {list(self.count_BNQ.shape)}")

    @classmethod
    def of_mask(
        cls, mask_BNQG: Tensor, *, query_rows: int, key_rows: int, length_G: Tensor | None = None, capacity: int = 0
    ) -> Self:
        """Lists of the blocks that a mask allows; waits for the device.

        Args:
            mask_BNQG: Which blocks of keys each block of queries attends, bool.
            query_rows: See the class.
            key_rows: See the class.
            length_G: See the class.
            capacity: Least C; one more than the longest list by default.
        """
        count_BNQ = mask_BNQG.sum(-1, dtype=torch.int32)
        longest = int(count_BNQ.max()) if count_BNQ.numel() else 0
        index_BNQG = torch.argsort(~mask_BNQG, dim=-1, stable=True).to(torch.int32)
        room = max(capacity, longest + 1)
        index_BNQC = index_BNQG.new_zeros((*mask_BNQG.shape[:3], room))
        kept = min(room, index_BNQG.shape[3])
        index_BNQC[..., :kept] = index_BNQG[..., :kept]
        index_BNQC.masked_fill_(torch.arange(room, device=mask_BNQG.device) >= count_BNQ[..., None], 0)
        return cls(
            index_BNQC=index_BNQC, count_BNQ=count_BNQ, query_rows=query_rows, key_rows=key_rows, length_G=length_G
        )

    @property
    def capacity(self) -> int:
        """C."""
        return self.index_BNQC.shape[3]

    def mask(self, key_blocks: int) -> Tensor:
        """Bool [B, N, Q, G]: which blocks are attended; the inverse of `of_mask`."""
        is_listed = torch.arange(self.capacity, device=self.index_BNQC.device) < self.count_BNQ[..., None]
        into = self.index_BNQC.long().masked_fill(~is_listed, key_blocks)
        mask = torch.zeros((*self.count_BNQ.shape, key_blocks + 1), dtype=torch.bool, device=into.device)
        return mask.scatter_(3, into, is_listed)[..., :key_blocks]

    def density(self, key_blocks: int) -> float:
        """Share of the blocks that are attended; waits for the device."""
        return float(self.count_BNQ.double().mean() / key_blocks) if self.count_BNQ.numel() else 0.0

    def heads(self, first: int, count: int) -> Self:
        """The lists of some heads, as views."""
        if self.index_BNQC.shape[1] == 1:
            return self
        part = slice(first, first + count)
        order_BNQ = None if self.order_BNQ is None else self.order_BNQ[:, part]
        return replace(
            self, index_BNQC=self.index_BNQC[:, part], count_BNQ=self.count_BNQ[:, part], order_BNQ=order_BNQ
        )

    def longest_first(self) -> Self:
        """The same lists, the longest of each head to be started first; the device does not wait."""
        order_BNQ = torch.argsort(self.count_BNQ, dim=-1, descending=True, stable=True)
        return replace(self, order_BNQ=order_BNQ.to(torch.int32))

    def check(self, key_blocks: int) -> None:
        """Read every list once; waits for the device, so lists from outside are checked, not those of every layer.

        Raises:
            ValueError: A count exceeds the capacity, a list names a block that does not exist or is not ascending, a
                block has more tokens than rows, or the order is none.
        """
        count = self.count_BNQ
        if bool(((count < 0) | (count >= self.capacity)).any()):
            raise ValueError(
                f"counts go from {int(count.min())} to {int(count.max())}; lists have {self.capacity} places"
            )
        place = torch.arange(self.capacity, device=count.device)
        is_listed = place < count[..., None]
        wrong = is_listed & ((self.index_BNQC < 0) | (self.index_BNQC >= key_blocks))
        if bool(wrong.any()):
            row, head, query, entry = wrong.nonzero()[0].tolist()
            found = int(self.index_BNQC[row, head, query, entry])
            raise ValueError(
                f"the list of row {row}, head {head}, query block {query} names key block {found} of {key_blocks}"
            )
        falls = is_listed[..., 1:] & (self.index_BNQC[..., 1:] <= self.index_BNQC[..., :-1])
        if bool(falls.any()):
            row, head, query, _ = falls.nonzero()[0].tolist()
            raise ValueError(f"the list of row {row}, head {head}, query block {query} is not ascending")
        if self.length_G is not None and bool(((self.length_G < 0) | (self.length_G > self.key_rows)).any()):
            raise ValueError(
                f"blocks of {self.key_rows} rows have {int(self.length_G.min())} to {int(self.length_G.max())} tokens"
            )
        if self.order_BNQ is not None:
            every = torch.arange(count.shape[2], dtype=torch.int32, device=count.device)
            if not torch.equal(self.order_BNQ.sort(-1).values, every.expand_as(count)):
                raise ValueError("order_BNQ does not name every block of queries once")
