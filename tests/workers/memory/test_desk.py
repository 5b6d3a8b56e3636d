"""Workspaces of streams whose windows share forwards: who finds whose, and what they take of the arena."""

import random
from weakref import ref

import pytest
import torch

from reelray.proto.errors import ResourceError
from reelray.workers.memory.arena import Arena
from reelray.workers.memory.desk import Desks, Kind
from reelray.workers.memory.page_format import KeyShape

SHAPE = KeyShape(layers=1, heads=1, width=8, dtype=torch.float32)
PAGE = SHAPE.token_bytes


class Memory:
    """Has a desk, or not."""


def make(pages, seats):
    kind = Kind(remembered=2, window=1, places=1, branch=0, seats=seats)
    arena = Arena(page_bytes=PAGE, pages=pages, device=torch.device("cpu"))
    return Desks(SHAPE, arena, 0), arena, kind, arena.pages_of(kind.desk_bytes(SHAPE))


def lay_out(desks, kind, memory):
    desk = desks.find(kind, memory)
    desk.owner = ref(memory)
    return desk


def test_as_many_memories_as_seats_keep_their_desks():
    desks, _, kind, _ = make(pages=99, seats=3)
    memories = [Memory() for _ in range(4)]
    for _ in memories:
        desks.join(kind)
    mine = [lay_out(desks, kind, memory) for memory in memories[:3]]
    assert len({desk.workspace.tokens(1).data_ptr() for desk in mine}) == 3
    for order in ([2, 0, 1], [0, 2, 1]):
        assert [lay_out(desks, kind, memories[n]) for n in order] == [mine[n] for n in order]
    assert lay_out(desks, kind, memories[3]) is mine[0]  # used longest ago
    assert lay_out(desks, kind, memories[0]) is mine[2]


def test_desks_are_promised_up_to_the_seats_and_given_back():
    desks, arena, kind, pages = make(pages=20, seats=2)
    assert desks.pages_for(kind) == pages
    for taken in (1, 2, 2):
        desks.join(kind)
        assert arena.unpromised == 20 - taken * pages
    assert desks.pages_for(kind) == 0
    memories = [Memory() for _ in range(3)]
    for left in (2, 1, 0):
        desks.leave(kind, memories[left])
        assert arena.unpromised == 20 - min(2, left) * pages
    assert arena.free == 20


def test_who_leaves_takes_the_desk_that_nobody_uses():
    """Not that of another one whose window is on its way."""
    desks, _, kind, _ = make(pages=99, seats=3)
    memories = [Memory() for _ in range(3)]
    for _ in memories:
        desks.join(kind)
    first, second, failed = (lay_out(desks, kind, memory) for memory in memories)
    failed.owner = None  # its layout broke off
    desks.leave(kind, memories[2])
    assert lay_out(desks, kind, memories[0]) is first
    assert lay_out(desks, kind, memories[1]) is second


def test_a_seat_that_cannot_be_promised_is_refused():
    desks, arena, kind, pages = make(pages=0 + 5 * 2 - 1, seats=2)
    assert pages == 4
    desks.join(kind)
    desks.join(kind)
    other = Kind(remembered=9, window=9, places=1, branch=1, seats=2)
    with pytest.raises(ResourceError):
        desks.join(other)
    assert arena.unpromised == 1


@pytest.mark.parametrize("seed", range(6))
def test_random_comings_and_goings_leave_nothing(seed):
    rng, (desks, arena, _, _) = random.Random(seed), make(pages=60, seats=1)
    kinds = [Kind(remembered=n + 1, window=1, places=1, branch=n, seats=seats) for n, seats in enumerate((1, 2, 3))]
    here = []
    for _ in range(400):
        if here and rng.random() < 0.5:
            kind, memory = here.pop(rng.randrange(len(here)))
            desks.leave(kind, memory)
            continue
        kind, memory = rng.choice(kinds), Memory()
        try:
            desks.join(kind)
        except ResourceError:
            continue
        here.append((kind, memory))
        together = rng.sample([one for k, one in here if k == kind], k=min(kind.seats, sum(k == kind for k, _ in here)))
        found = [lay_out(desks, kind, one) for one in together]
        assert len({desk.workspace.tokens(1).data_ptr() for desk in found}) == len(together)
        assert [desk.owner() for desk in found] == together
    for kind, memory in here:
        desks.leave(kind, memory)
    assert arena.free == arena.unpromised == arena.pages
