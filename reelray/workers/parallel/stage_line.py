"""The line of ranks that a forward passes through, some layers on each.

Shape suffixes: B batch, S tokens, C channels.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from reelray.workers.models.stages import Forward, TokenFacts
from reelray.workers.parallel.layer_split import split_layers
from reelray.workers.parallel.mesh import AxisGroup


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A tensor that may still be travelling."""

    tensor: Tensor
    works: tuple[dist.Work, ...] = ()

    def wait(self) -> Tensor:
        """Wait (on CUDA: let the current stream wait) and return it."""
        for work in self.works:
            work.wait()
        return self.tensor


class StageLine:
    """Moves forwards along the pipe axis, one behind the other, so that every rank works on another one.

    Time is counted in ticks. A forward enters at one tick and is on rank r of the axis r ticks later; the last rank
    sends what it predicts to all. In each tick every rank first makes room for its next input, then works, passes its
    output on, and takes part in the broadcast; all ranks issue their transfers in this one order, so they cannot lock
    each other even where one stream carries them all. What is computed is what one rank computes, in the same shapes.

    Args:
        group: The pipe axis.
        layers: Layers of the model.

    Attributes:
        layers: Layers of this rank.
        at_work: The forward that this rank works on, or worked on last: the one to blame when `run` fails.

    Raises:
        UnsupportedError: There are fewer layers than ranks.
    """

    def __init__(self, group: AxisGroup, layers: int) -> None:
        self._group = group
        self.layers = split_layers(layers, group.size)[group.index]
        self.at_work: Forward | None = None

    @property
    def ranks(self) -> int:
        """Ticks that a forward takes."""
        return self._group.size

    @torch.no_grad()
    def run(self, forwards: Iterable[Forward | None]) -> Iterator[Arrival]:
        """Predict; every rank of the axis must call it with the same forwards and take all that comes.

        Args:
            forwards: Taken one per tick, on all ranks at the same tick; None lets a tick pass. A forward may depend on
                the prediction of the one `ranks` places before it, and on all earlier ones.

        Yields:
            The patches that each forward predicts, in order.
        """
        group, source = self._group, iter(forwards)
        first, last = group.index == 0, group.index == group.size - 1
        line: deque[Forward | None] = deque([None] * group.size, maxlen=group.size)
        arriving: Arrival | None = None
        sent: Arrival | None = None
        ended = False
        while True:
            entering = None if ended else next(source, _END)
            if isinstance(entering, _End):
                ended, entering = True, None
            line.appendleft(entering)
            if ended and all(forward is None for forward in line):
                break
            mine, input_, arriving = line[group.index], arriving, None
            if not first and (coming := line[group.index - 1]) is not None:
                arriving = self._receive(coming.stream)
            predicted: Tensor | None = None
            if mine is not None:
                self.at_work = mine
                x_BSC = mine.embed() if input_ is None else input_.wait()
                x_BSC = mine.run(x_BSC, self.layers)
                if last:
                    predicted = mine.predict(x_BSC)
                else:
                    if sent is not None:
                        sent.wait()
                    sent = self._send(x_BSC, mine.stream)
            if (leaving := line[-1]) is not None:
                yield self._share(predicted, leaving.predicted)
        if sent is not None:
            sent.wait()
        self.at_work = None

    def _receive(self, facts: TokenFacts) -> Arrival:
        tensor = facts.empty()
        # Alone in a batch, because on NCCL only a batch uses the connections that the group has already made.
        operation = dist.P2POp(dist.irecv, tensor, group=self._group.process_group, group_peer=self._group.index - 1)
        return Arrival(tensor=tensor, works=tuple(dist.batch_isend_irecv([operation])))

    def _send(self, x_BSC: Tensor, facts: TokenFacts) -> Arrival:
        assert (x_BSC.shape, x_BSC.dtype) == (facts.shape, facts.dtype)
        tensor = x_BSC.contiguous()
        operation = dist.P2POp(dist.isend, tensor, group=self._group.process_group, group_peer=self._group.index + 1)
        return Arrival(tensor=tensor, works=tuple(dist.batch_isend_irecv([operation])))

    def _share(self, predicted: Tensor | None, facts: TokenFacts) -> Arrival:
        tensor = facts.empty() if predicted is None else predicted.contiguous()
        group = self._group
        if group.size == 1:
            return Arrival(tensor=tensor)
        work = dist.broadcast(tensor, group.ranks[-1], group=group.process_group, async_op=True)
        return Arrival(tensor=tensor, works=() if work is None else (work,))


class _End:
    """What a source gives after its last forward."""


_END = _End()
