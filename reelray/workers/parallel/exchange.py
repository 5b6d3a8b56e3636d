"""The Ulysses exchange: every rank gives its tokens of all heads and gets all tokens of its heads, and back.

Neither tokens nor heads need to divide by the ranks. Whatever arrives is put in the order it has on one rank: latent
frame by latent frame over the whole block of places. Shape suffixes: B batch, S tokens, N heads, D head width, P parts
that travel together (queries, keys, values).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

from reelray.proto.errors import UnsupportedError
from reelray.workers.parallel.mesh import AxisGroup
from reelray.workers.parallel.token_split import split_evenly

HeadRanges = tuple[range, ...]


def plan_heads(heads: int, ranks: int, groups: int) -> tuple[HeadRanges, ...]:
    """Say which heads each rank computes, cut into groups that are exchanged one after the other.

    Args:
        heads: Heads of the model.
        ranks: Ranks of the ulysses axis.
        groups: Groups wished for; no more are made than the rank with the fewest heads has.

    Returns:
        For each group, one range of heads per rank; none is empty.

    Raises:
        UnsupportedError: A rank would have no head.
    """
    if heads < ranks:
        raise UnsupportedError(f"{heads} heads cannot be shared by ulysses={ranks}; use ring for the further ranks")
    groups = min(groups, heads // ranks)
    per_rank = [
        [range(own.start + part.start, own.start + part.stop) for part in split_evenly(len(own), groups)]
        for own in split_evenly(heads, ranks)
    ]
    return tuple(zip(*per_rank, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """What both directions know in advance; every rank of the axis starts and waits for the same exchanges.

    Args:
        group: The ulysses axis.
        frames: Latent frames of the window.
        places: Places of a latent frame that each rank of the axis holds.
    """

    group: AxisGroup
    frames: int
    places: tuple[int, ...]

    def start_to_heads(self, parts_BSND: Sequence[Tensor], heads: HeadRanges) -> "ToHeads":
        """Begin to send this rank's tokens and to get its heads; all ranks of the axis call it.

        Args:
            parts_BSND: Tensors of one shape, all heads of this rank's tokens.
            heads: Heads of each rank in this exchange.

        Returns:
            What to wait for.
        """
        mine = heads[self.group.index]
        count, (batch, tokens, _, width) = len(parts_BSND), parts_BSND[0].shape
        sent = [count * batch * tokens * len(theirs) * width for theirs in heads]
        got = [count * batch * self.frames * places * len(mine) * width for places in self.places]
        packed = parts_BSND[0].new_empty(sum(sent))
        for view, theirs in zip(packed.split_with_sizes(sent), heads, strict=True):
            shape = (count, batch, tokens, len(theirs), width)
            for to, part_BSND in zip(view.view(shape), parts_BSND, strict=True):
                to.copy_(part_BSND[:, :, theirs.start : theirs.stop])
        flight = _send(packed, got, sent, self.group)
        return ToHeads(flight=flight, exchange=self, shape=(count, batch, len(mine), width))

    def start_to_tokens(self, mixed_BSND: Tensor, heads: HeadRanges) -> "ToTokens":
        """Begin to send back this rank's heads and to get all heads of its tokens; all ranks of the axis call it.

        Args:
            mixed_BSND: All tokens of the block, heads of this rank.
            heads: Heads of each rank in this exchange.

        Returns:
            What to wait for.
        """
        batch, _, mine, width = mixed_BSND.shape
        tokens = self.frames * self.places[self.group.index]
        sent = [batch * self.frames * places * mine * width for places in self.places]
        got = [batch * tokens * len(theirs) * width for theirs in heads]
        packed = mixed_BSND.new_empty(sum(sent))
        by_place = torch.unflatten(mixed_BSND, 1, (self.frames, -1)).split_with_sizes(self.places, dim=2)
        for view, theirs_BTPND in zip(packed.split_with_sizes(sent), by_place, strict=True):
            view.view(theirs_BTPND.shape).copy_(theirs_BTPND)
        flight = _send(packed, got, sent, self.group)
        return ToTokens(flight=flight, shapes=[(batch, tokens, len(theirs), width) for theirs in heads])


class WholeExchange:
    """Both directions of all heads at once.

    Args:
        exchange: Of the axis.
        heads: Heads of each rank.
    """

    def __init__(self, exchange: Exchange, heads: HeadRanges) -> None:
        self._exchange = exchange
        self._heads = heads

    def to_heads(self, parts_BSND: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give this rank's tokens and get its heads of all tokens; all ranks of the axis call it."""
        return self._exchange.start_to_heads(parts_BSND, self._heads).wait()

    def to_tokens(self, mixed_BSND: Tensor) -> Tensor:
        """Give this rank's heads and get all heads of its tokens; all ranks of the axis call it."""
        return torch.cat(self._exchange.start_to_tokens(mixed_BSND, self._heads).wait(), dim=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flight:
    """Buffers that live until they have arrived."""

    packed: Tensor
    landed: Tensor
    sizes: list[int]
    work: dist.Work | None

    def wait(self) -> tuple[Tensor, ...]:
        """Wait (on CUDA: let the current stream wait) and return what came, by sender."""
        if self.work is not None:
            self.work.wait()
        return self.landed.split_with_sizes(self.sizes)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToHeads:
    """Heads on their way."""

    flight: Flight
    exchange: Exchange
    shape: tuple[int, int, int, int]

    def wait(self) -> tuple[Tensor, ...]:
        """Wait and put the tokens in order; returns the parts, [B, S, N, D] with all tokens of the block."""
        count, batch, heads, width = self.shape
        frames, places = self.exchange.frames, self.exchange.places
        # Three dims are what torch.cat does in one kernel.
        parts = [
            view.view(count * batch * frames, held, heads * width)
            for view, held in zip(self.flight.wait(), places, strict=True)
        ]
        return torch.cat(parts, dim=1).view(count, batch, frames * sum(places), heads, width).unbind(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToTokens:
    """Tokens on their way back."""

    flight: Flight
    shapes: list[tuple[int, int, int, int]]

    def wait(self) -> list[Tensor]:
        """Wait; returns for each rank of the axis its heads of this rank's tokens, [B, S, N, D]."""
        return [view.view(shape) for view, shape in zip(self.flight.wait(), self.shapes, strict=True)]


def gather_places(tokens_BSC: Tensor, group: AxisGroup, *, frames: int, held: Sequence[int]) -> Tensor:
    """Gather the tokens of all ranks of an axis, in the order of one rank; every rank of it must call this.

    Args:
        tokens_BSC: Of this rank.
        group: The axis.
        frames: Latent frames of the window.
        held: Places of a latent frame that each rank of the axis has.

    Returns:
        The same tokens on every rank.
    """
    if group.size == 1:
        return tokens_BSC
    # Gathering needs equal sizes.
    batch, _, channels = tokens_BSC.shape
    cells = torch.unflatten(tokens_BSC, 1, (frames, -1))
    cells = F.pad(cells, (0, 0, 0, max(held) - cells.shape[2])).contiguous()
    landed = cells.new_empty(len(held), batch, frames, max(held), channels)
    dist.all_gather(list(landed), cells, group=group.process_group)
    return torch.cat([part[:, :, :count] for part, count in zip(landed, held, strict=True)], 2).flatten(1, 2)


def _send(packed: Tensor, got: list[int], sent: list[int], group: AxisGroup) -> Flight:
    landed = packed.new_empty(sum(got))
    work = dist.all_to_all_single(landed, packed, got, sent, group=group.process_group, async_op=True)
    return Flight(packed=packed, landed=landed, sizes=got, work=work)
