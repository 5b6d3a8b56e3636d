"""A causal video VAE whose pictures are divided among ranks by rows, with its state.

Latent rows are dealt out in order; at every scale a rank owns the rows that its latent rows become. The network itself
asks for what it needs of other ranks' rows, through `GroupRows`.

Shapes: B batch, C channels, T frames (pixel or latent), H/W height/width.
"""

from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from reelray.proto.errors import SizeError
from reelray.workers.parallel.row_split import RowSplit


class SlotState(Protocol):
    """A video's causal state: slots (B, C, reach, H, W), at several scales."""

    @property
    def tiling(self) -> object:
        """How frames are cut into tiles; None means not at all."""

    def map_slots(self, change: Callable[[Tensor], Tensor]) -> Self:
        """A state at the same point of the video whose slots are `change` of these."""


class RowVae(Protocol):
    """A VAE that can work on some rows of a picture, given a way to reach the others."""

    def decode(self, latents_BCTHW: Tensor, state: Any, exchange: Any) -> Tensor:
        """Pixels in [-1, 1] of the rank's rows, from latents of its rows and margins."""

    def encode(self, video_BCTHW: Tensor, state: Any, exchange: Any) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the rank's rows, from pixels of its rows and margins."""


StateT = TypeVar("StateT", bound=SlotState)


class GroupRows:
    """Exchange of rows over a process group. Every method that takes a tensor is a collective of that group.

    Args:
        group: The ranks of one picture, from top to bottom.
        latent_rows: Height of the picture in latents.
        width: Rows of a margin, 1 or 2; None means 2 if every rank has two latent rows. Two need half the messages.

    Raises:
        SizeError: If there are fewer latent rows than ranks, or a rank has fewer than `width`; on all ranks, before
            anything is sent.
    """

    def __init__(self, group: dist.ProcessGroup, latent_rows: int, width: int | None = None) -> None:
        self.group, self.rank = group, group.rank()
        self.split = RowSplit.make(latent_rows, group.size(), width)
        self.counts, self.width = self.split.counts, self.split.width
        self.above, self.below = self.split.above(self.rank), self.split.below(self.rank)

    def first_row(self, own_rows: int) -> int:
        """Row of the whole picture where this rank begins, at the scale at which it owns `own_rows`."""
        return sum(self.counts[: self.rank]) * self._scale(own_rows)

    def refresh(self, x: Tensor, dim: int) -> None:
        """Overwrite the margins of `x` along `dim` with the neighbours' own rows: one message each way and side."""
        end = x.shape[dim] - self.below
        sides = []
        if self.above:
            sides.append((self.rank - 1, self.above, 0))
        if self.below:
            sides.append((self.rank + 1, end - self.width, end))
        leaving = {peer: x.narrow(dim, own, self.width).contiguous() for peer, own, _ in sides}
        arriving = {peer: torch.empty_like(rows) for peer, rows in leaving.items()}
        self._swap(leaving, arriving)
        for peer, _, margin in sides:
            x.narrow(dim, margin, self.width).copy_(arriving[peer])

    def gather(self, own: Tensor, dim: int) -> Tensor:
        """All ranks' own rows along `dim`, in order, on every rank."""
        mine = own.contiguous()
        arriving = self._room_for_others(mine, dim)
        self._swap(dict.fromkeys(arriving, mine), arriving)
        return self._join(mine, arriving, dim)

    def gather_to(self, own: Tensor, dim: int, rank: int) -> Tensor | None:
        """All ranks' own rows along `dim`, in order, on one rank; None on the others."""
        mine = own.contiguous()
        if self.rank != rank:
            self._swap({rank: mine}, {})
            return None
        arriving = self._room_for_others(mine, dim)
        self._swap({}, arriving)
        return self._join(mine, arriving, dim)

    def cut(self, whole: Tensor, dim: int) -> Tensor:
        """This rank's rows of a whole picture, with margins: a view."""
        held = self.split.held(self.rank, whole.shape[dim] // sum(self.counts))
        return whole.narrow(dim, held.start, len(held))

    def own(self, x: Tensor, dim: int) -> Tensor:
        """`x` without its margins, a view."""
        return x.narrow(dim, self.above, x.shape[dim] - self.above - self.below)

    def _scale(self, own_rows: int) -> int:
        return own_rows // self.counts[self.rank]

    def _swap(self, leaving: dict[int, Tensor], arriving: dict[int, Tensor]) -> None:
        """Send and receive contiguous tensors, all at once; keys are ranks of the group."""
        group = self.group
        moves = [dist.P2POp(dist.isend, rows, group=group, group_peer=peer) for peer, rows in leaving.items()]
        moves += [dist.P2POp(dist.irecv, rows, group=group, group_peer=peer) for peer, rows in arriving.items()]
        for work in dist.batch_isend_irecv(moves) if moves else ():
            work.wait()

    def _room_for_others(self, mine: Tensor, dim: int) -> dict[int, Tensor]:
        room, shape, scale = {}, list(mine.shape), self._scale(mine.shape[dim])
        for rank, count in enumerate(self.counts):
            if rank != self.rank:
                shape[dim] = count * scale
                room[rank] = mine.new_empty(shape)
        return room

    def _join(self, mine: Tensor, others: dict[int, Tensor], dim: int) -> Tensor:
        return torch.cat([others.get(rank, mine) for rank in range(len(self.counts))], dim)


class RowParallelVae:
    """Decodes and encodes videos of one height, each rank its rows. Every rank must make the same calls in order.

    Inputs are whole pictures, the same on every rank: latents are small, and a rank then has its first margins without
    asking. Outputs are the rank's own rows. States are made by the VAE, one per rank, untiled, and hold its rows.

    Args:
        vae: The same weights on every rank.
        rows: Who has which rows.
        scale: Pixels per latent, along height and along width.
    """

    def __init__(self, vae: RowVae, rows: GroupRows, *, scale: int) -> None:
        self.vae, self.rows, self.scale = vae, rows, scale

    def decode(self, latents_BCTHW: Tensor, state: SlotState) -> Tensor:
        """Decode the next latent frames of a video.

        Args:
            latents_BCTHW: Raw latents of the whole picture.
            state: This rank's, brought forward in place.

        Returns:
            Pixels of this rank's rows in [-1, 1]; `gather_pixels` puts them together.

        Raises:
            SizeError: If the latents do not go on from `state`, or their height is not that of `rows`.
            ValueError: If the state is tiled.
        """
        self._check(latents_BCTHW, state, 1)
        return self.vae.decode(self.rows.cut(latents_BCTHW, 3), state, self.rows)

    def encode(self, video_BCTHW: Tensor, state: SlotState) -> tuple[Tensor, Tensor]:
        """Encode the next frames of a video.

        Args:
            video_BCTHW: Pixels of the whole picture in [-1, 1].
            state: This rank's, brought forward in place.

        Returns:
            Mean and log-variance of this rank's rows of latents; `rows.gather` puts them together.

        Raises:
            SizeError: If the frames do not go on from `state`, or their height is not that of `rows`, or their
                width not whole latents.
            ValueError: If the state is tiled.
        """
        self._check(video_BCTHW, state, self.scale)
        return self.vae.encode(self.rows.cut(video_BCTHW, 3), state, self.rows)

    def gather_pixels(self, video_BCTHW: Tensor, to: int | None = None) -> Tensor | None:
        """Put the pixels of all ranks together as bytes, a quarter or half of what the decoder's floats weigh.

        Args:
            video_BCTHW: What `decode` returned on this rank.
            to: The rank that wants them; None means all.

        Returns:
            (B, T, H, W, C), uint8; None where they are not wanted.
        """
        levels_BCTHW = video_BCTHW.float().mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)
        levels_BTHWC = levels_BCTHW.permute(0, 2, 3, 4, 1).contiguous()
        return self.rows.gather(levels_BTHWC, 2) if to is None else self.rows.gather_to(levels_BTHWC, 2, to)

    def gather_state(self, state: StateT, to: int | None = None) -> StateT | None:
        """The state of the whole picture, as one rank alone would have it, slot by slot.

        Args:
            state: This rank's.
            to: The rank that wants it; None means all.

        Returns:
            A state that a single rank can go on from, or any number of ranks after `cut_state`; None where it is not
            wanted.
        """
        whole = state.map_slots(lambda slot: self._gather_slot(slot, to))
        return whole if to in {None, self.rows.rank} else None

    def cut_state(self, whole: StateT) -> StateT:
        """This rank's part of a whole picture's state, margins included; nothing is sent.

        Args:
            whole: The same on every rank, such as `from_bytes` of a stored snapshot.
        """

        def cut(slot: Tensor) -> Tensor:
            return self.rows.cut(slot, 3).clone(memory_format=layout_of(slot))

        return whole.map_slots(cut)

    def _gather_slot(self, slot: Tensor, to: int | None) -> Tensor:
        layout = layout_of(slot)
        own = self.rows.own(slot, 3)
        if layout is torch.channels_last_3d:
            own_BTHWC = own.permute(0, 2, 3, 4, 1)
            whole = self.rows.gather(own_BTHWC, 2) if to is None else self.rows.gather_to(own_BTHWC, 2, to)
            return slot if whole is None else whole.permute(0, 4, 1, 2, 3).contiguous(memory_format=layout)
        whole = self.rows.gather(own, 3) if to is None else self.rows.gather_to(own, 3, to)
        return slot if whole is None else whole

    def _check(self, x_BCTHW: Tensor, state: SlotState, scale: int) -> None:
        if state.tiling is not None:
            raise ValueError(f"{state.tiling}: rows of a picture cannot be cut into tiles as well")
        height, width, wanted = *x_BCTHW.shape[3:], sum(self.rows.counts) * scale
        if height != wanted or width % scale:
            raise SizeError(f"a picture of {height}x{width}: this group takes {wanted} rows, and columns by {scale}")


def layout_of(slot_BCTHW: Tensor) -> torch.memory_format:
    """How a slot lies in memory. Ask before margins are cut off, so that all ranks answer alike."""
    last = slot_BCTHW.is_contiguous(memory_format=torch.channels_last_3d)
    return torch.channels_last_3d if last else torch.contiguous_format
