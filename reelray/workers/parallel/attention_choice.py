"""Which implementation attends the tokens of all ranks: ours or xfuser's, by what was measured.

Shape suffixes: B batch, S tokens of this rank, N heads, D head width, P rotated pairs of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from reelray.workers.models.attention_op import AttentionOp
from reelray.workers.parallel.mesh import Lane
from reelray.workers.parallel.sequence_attention import SequenceAttention
from reelray.workers.parallel.token_split import TokenSplit
from reelray.workers.parallel.xfuser_attention import Xfuser, XfuserAttention, explain_refusal

AttentionFactory = Callable[[Lane, TokenSplit], AttentionOp]
"""Makes the attention of a window; every rank of the lane gets the same kind."""

MARGIN = 0.98
"""xfuser is taken where it needs at most this share of our time: a tie stays with ours."""
REACH = 2.0
"""A measurement speaks for windows of up to so many times more or fewer tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Times of one layer's self-attention by `benchmarks.sequence_attention`.

    Args:
        ring: Degree of the ring axis.
        ulysses: Degree of the ulysses axis.
        tokens: Tokens of the window.
        heads: Heads of the model.
        ours_ms: Time of `SequenceAttention` with the best number of head groups.
        xfuser_ms: Time of `XfuserAttention`.
    """

    ring: int
    ulysses: int
    tokens: int
    heads: int
    ours_ms: float
    xfuser_ms: float


MEASURED: tuple[Measurement, ...] = ()
"""What was measured on CUDA. While it is empty, ours is always taken."""


def prefers_xfuser(split: TokenSplit, heads: int, measured: Sequence[Measurement] = MEASURED) -> bool:
    """Whether the measurement nearest to this window says so, and xfuser is exact there. All ranks agree.

    Args:
        split: Tokens of the window.
        heads: Heads of the model.
        measured: The measurements.
    """
    tokens = split.frames * split.places
    alike = [row for row in measured if (row.ring, row.ulysses, row.heads) == (split.ring, split.ulysses, heads)]
    nearest = min(alike, key=lambda row: _distance(row.tokens, tokens), default=None)
    if nearest is None or _distance(nearest.tokens, tokens) > REACH or explain_refusal(split, heads) is not None:
        return False
    return nearest.xfuser_ms <= MARGIN * nearest.ours_ms


def _distance(tokens: int, other: int) -> float:
    return max(tokens, other) / min(tokens, other)


def make_ours(lane: Lane, split: TokenSplit) -> AttentionOp:
    """Take `SequenceAttention`; an `AttentionFactory`."""
    return SequenceAttention(lane, split)


class MeasuredAttention:
    """Implements `AttentionOp` by whichever implementation was measured to be faster for the shape of each call.

    Args:
        lane: This rank's groups.
        split: Tokens of the window and of this rank.
        xfuser: The imported modules.
        measured: The measurements, the same on every rank.
    """

    rotates = False
    repeats = True

    def __init__(
        self, lane: Lane, split: TokenSplit, xfuser: Xfuser, *, measured: Sequence[Measurement] = MEASURED
    ) -> None:
        self._split, self._measured = split, measured
        self._ours = make_ours(lane, split)
        self._theirs = None if explain_refusal(split) else XfuserAttention(lane, split, xfuser)

    def __call__(
        self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, cos_BSP: Tensor, sin_BSP: Tensor
    ) -> Tensor:
        """Attend the whole window; see `AttentionOp`."""
        chosen = self._ours
        if self._theirs is not None and prefers_xfuser(self._split, q_BSND.shape[2], self._measured):
            chosen = self._theirs
        return chosen(q_BSND, k_BSND, v_BSND, layer=layer, cos_BSP=cos_BSP, sin_BSP=sin_BSP)


def load_choice(lane: Lane, measured: Sequence[Measurement] = MEASURED) -> AttentionFactory:
    """Say what attends on this lane; without a CUDA device, ours.

    xfuser is imported only if a measurement of the lane's layout speaks for it.

    Args:
        lane: This rank's groups.
        measured: The measurements, the same on every rank.

    Raises:
        UnsupportedError: xfuser is wanted and cannot be imported; another answer would set this rank apart.
    """
    layout = lane.ring.size, lane.ulysses.size
    if lane.device_mesh.device_type != "cuda" or not any(
        (row.ring, row.ulysses) == layout and row.xfuser_ms <= MARGIN * row.ours_ms for row in measured
    ):
        return make_ours
    xfuser = Xfuser.load()

    def make(lane: Lane, split: TokenSplit) -> AttentionOp:
        return MeasuredAttention(lane, split, xfuser, measured=measured)

    return make
