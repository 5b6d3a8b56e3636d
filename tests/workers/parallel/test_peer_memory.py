"""Memory that GPUs share: who shares it, how it grows, and that nobody waits in it for a rank that is lost."""

import threading
from contextlib import suppress

import pytest
import torch
from torch import distributed as dist

from reelray.proto.errors import EngineError
from reelray.proto.layout import Layout
from reelray.workers.parallel.local_ranks import run_ranks
from reelray.workers.parallel.mesh import Mesh
from reelray.workers.parallel.peer_memory import open_peer_memory

TWO = Layout(ulysses=2)


def look_on_cpus(rank):
    mesh = Mesh.create([TWO, Layout(ring=2)], rank.device)
    groups = [mesh.lane(TWO).ulysses, mesh.lane(Layout(ring=2)).ring]
    return [group.peer_memory for group in groups], open_peer_memory(dist.group.WORLD, rank.device)


def test_ranks_on_cpus_share_none() -> None:
    assert run_ranks(look_on_cpus, ranks=2) == [([None, None], None)] * 2


class Stoppable:
    """Memory that counts how often it is told to stop, and may fail to."""

    def __init__(self, error):
        self.stops, self.error = 0, error

    def stop(self):
        self.stops += 1
        if self.error is not None:
            raise self.error


def give_up(rank):
    """How often memory was stopped, and whether there are groups; on rank 1 stopping fails."""
    memories = []

    def open_memory(*_):
        memories.append(Stoppable(RuntimeError("device lost") if rank.rank == 1 else None))
        return memories[-1]

    mesh = Mesh.create([TWO], rank.device, open_memory=open_memory)
    lane = mesh.lane(TWO)
    shared = lane.ulysses.peer_memory is memories[0]
    for _ in range(2):
        with suppress(RuntimeError):
            mesh.abort()
    with pytest.raises(EngineError, match="aborted"):
        _ = lane.ulysses.process_group
    return shared, [memory.stops for memory in memories], dist.is_initialized()


def test_who_gives_up_stops_waiting_in_memory_and_leaves_its_groups_even_where_that_fails() -> None:
    assert run_ranks(give_up, ranks=2) == [(True, [1], False)] * 2


def grow(rank):
    """Each room has what the peer wrote, also the first one when another has taken its name."""
    mesh = Mesh.create([TWO], rank.device)
    memory = mesh.lane(TWO).ulysses.peer_memory
    first = memory.room("a", 10, torch.int32)
    second = memory.room("a", 10**6, torch.int32)
    same = memory.room("a", 10**6, torch.int32) is second
    other = memory.room("b", 10, torch.float32)
    for number, room in enumerate((first, second, other)):
        room.mine[:10] = 10 * rank.rank + number
    memory.meet()
    memory.meet()
    torch.cuda.synchronize()
    found = [room.mine[:10].unique().tolist() for room in (first, second, other)]
    starts = [len(set(room.pointers.tolist())) for room in (first, second, other)]
    mesh.close()
    return same, found, starts


@pytest.mark.multigpu
def test_rooms_grow_and_old_ones_are_kept() -> None:
    for rank, (same, found, starts) in enumerate(run_ranks(grow, ranks=2, device="cuda")):
        assert same
        assert found == [[10 * rank + number] for number in range(3)]
        assert starts == [2, 2, 2]


def be_stranded(rank):
    """Rank 1 never comes to the second meeting."""
    mesh = Mesh.create([TWO], rank.device)
    memory = mesh.lane(TWO).ulysses.peer_memory
    memory.meet()
    torch.cuda.synchronize()
    if rank.rank == 1:
        return True
    memory.meet()
    threading.Event().wait(1.0)
    waited = not torch.cuda.current_stream().query()
    aborting = threading.Thread(target=mesh.abort)
    aborting.start()
    torch.cuda.synchronize()
    aborting.join()
    return waited


@pytest.mark.multigpu
def test_an_abort_ends_the_wait_for_a_lost_rank() -> None:
    assert run_ranks(be_stranded, ranks=2, device="cuda", deadline_s=60) == [True, True]
