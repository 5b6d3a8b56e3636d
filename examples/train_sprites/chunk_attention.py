"""Self-attention of many chunks in one forward: each attends what it would find in memory when it is served.

A *seat* is a chunk of every clip of a batch, noisy or clean. Clean chunks are what a stream remembers after its clean
pass; a seat attends those of them that the recipe's memory would hold, and itself. So one forward over all seats
gives what a stream gives chunk by chunk.

Keys arrive rotated by where their frames stand in the video. Served positions count attended frames from 0, so they
differ from that for a sink that lies far back; only differences matter to a rotation, and `Piece.turn` makes them up.

Shape suffixes: B clips, R rows (seats x B, seats first), S tokens of a chunk, N heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reelray.kernels.attention.api import attend
from reelray.kernels.norm_rope.reference import rotate
from reelray.proto.memory_rule import Commit, MemoryRule, Placement, PromptSwitch, Sink
from reelray.proto.storage import Storage
from reelray.workers.memory.entries import Frame
from reelray.workers.memory.regions import Regions
from reelray.workers.models.wan.rope import RotaryTable

Held = dict[int, tuple[Tensor, Tensor]]
"""Keys and values [B, S, N, D] of clean chunks, by chunk."""


@dataclass(frozen=True, slots=True)
class Piece:
    """An earlier chunk that is attended.

    Args:
        chunk: Which.
        turn: Latent frames by which its keys are moved on in time.
    """

    chunk: int
    turn: int


@dataclass(frozen=True, slots=True)
class Seat:
    """One chunk of every clip.

    Args:
        chunk: Which.
        clean: Whether it is there to be remembered.
    """

    chunk: int
    clean: bool = False


def check_rule(rule: MemoryRule, size: int) -> None:
    """Refuse memory rules that cannot be trained here.

    Raises:
        ValueError: Positions are absolute, frames are mixed, or the regions do not hold whole chunks.
    """
    if rule.placement is not Placement.RELATIVE or rule.commit is not Commit.CLEAN or rule.commit_timestep:
        raise ValueError("the memory rule must have relative positions and a clean pass at timestep 0")
    moves = rule.sink_kind is not Sink.FIRST or bool(rule.means) or rule.bank is not None or bool(rule.rollout)
    if moves or rule.switch is not PromptSwitch.KEEP or rule.storage is not Storage.EXACT:
        raise ValueError("the memory rule must keep frames as they are")
    if rule.sink % size or rule.local % size:
        raise ValueError(f"sink is {rule.sink} and local {rule.local}; they must be multiples of the chunk, {size}")


def find_pieces(rule: MemoryRule, size: int, chunk: int) -> tuple[Piece, ...]:
    """What a chunk attends besides itself, by the rules that memory is served with.

    Args:
        rule: The recipe's.
        size: Latent frames of a chunk.
        chunk: Which chunk asks.
    """
    regions = Regions(rule=rule, chunk=size)
    for earlier in range(chunk):
        regions.commit(earlier * size, size)
    frames = [entry.index for entry in regions.attended if isinstance(entry, Frame)]
    places, own = regions.positions(chunk * size, size)
    pieces = []
    for number in range(0, len(frames), size):
        first, served = frames[number], places[number] - own[0]
        pieces.append(Piece(chunk=first // size, turn=served - (first - chunk * size)))
    return tuple(pieces)


@dataclass(kw_only=True)
class Bank:
    """What clean chunks have left in every layer.

    Args:
        layers: By layer.
    """

    layers: dict[int, Held] = field(default_factory=dict)

    def of(self, layer: int) -> Held:
        """Keys and values of a layer."""
        return self.layers.setdefault(layer, {})

    def keep(self, chunks: Sequence[int]) -> None:
        """Forget all but some chunks."""
        for held in self.layers.values():
            for chunk in [chunk for chunk in held if chunk not in chunks]:
                del held[chunk]


class ChunkAttention:
    """Implements `AttentionOp` for the seats of one forward.

    Args:
        rule: The recipe's memory.
        size: Latent frames of a chunk.
        seats: Of the forward, in the order of its rows; clean ones count for all others.
        rope: The transformer's.
        bank: Chunks that are clean already; those of this forward are written to it.
    """

    rotates = False

    def __init__(
        self, rule: MemoryRule, size: int, seats: Sequence[Seat], rope: RotaryTable, bank: Bank | None = None
    ) -> None:
        self._seats, self._rope, self._bank = tuple(seats), rope, bank
        self._pieces = {seat.chunk: find_pieces(rule, size, seat.chunk) for seat in seats}

    def __call__(
        self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, cos_BSP: Tensor, sin_BSP: Tensor
    ) -> Tensor:
        """Attend; see `AttentionOp`. Rows are seats x clips."""
        del cos_BSP, sin_BSP
        count = len(self._seats)
        queries, keys, values = (torch.unflatten(part, 0, (count, -1)).unbind(0) for part in (q_BSND, k_BSND, v_BSND))
        held = {} if self._bank is None else self._bank.of(layer)
        for seat, key_BSND, value_BSND in zip(self._seats, keys, values, strict=True):
            if seat.clean:
                held[seat.chunk] = (key_BSND, value_BSND)
        pasts = {chunk: self._past(held, pieces) for chunk, pieces in self._pieces.items()}
        mixed = []
        for seat, query_BSND, key_BSND, value_BSND in zip(self._seats, queries, keys, values, strict=True):
            past_keys, past_values = pasts[seat.chunk]
            mixed.append(
                attend(query_BSND, torch.cat([*past_keys, key_BSND], 1), torch.cat([*past_values, value_BSND], 1))
            )
        return torch.cat(mixed)

    def _past(self, held: Held, pieces: Sequence[Piece]) -> tuple[list[Tensor], list[Tensor]]:
        """Keys, turned to where they are served, and values."""
        keys = [self._turn(held[piece.chunk][0], piece.turn) for piece in pieces]
        return keys, [held[piece.chunk][1] for piece in pieces]

    def _turn(self, key_BSND: Tensor, frames: int) -> Tensor:
        """Move rotated keys on in time."""
        if not frames:
            return key_BSND
        timed = self._rope.dims[0]
        cos_11P, sin_11P = (table[frames][None, None] for table in (self._rope.time_cos, self._rope.time_sin))
        turned_BSND = rotate(key_BSND[..., :timed], cos_11P, sin_11P)
        return torch.cat([turned_BSND, key_BSND[..., timed:]], -1)
