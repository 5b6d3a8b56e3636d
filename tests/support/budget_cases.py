"""Ranks of one lane that have different memory, and what each of them makes of it."""

from functools import partial

from reelray.proto.chunking import Chunking
from reelray.proto.errors import ResourceError
from reelray.proto.layout import Layout
from reelray.proto.recipe import Guidance, Recipe, Schedule, Solver
from reelray.workers.engine.footprint import Footprint
from reelray.workers.engine.memory_rooms import MemoryRooms
from reelray.workers.engine.station import Station
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.parallel.mesh import Mesh, find_least
from tests.support.requests import make_request

MB = 1_000_000


class Uneven:
    """Every rank has less than the one before it, and only the first one decodes."""

    def __init__(self, rank):
        self._rank = rank

    def free(self):
        return (10 - 3 * self._rank) * MB

    def measure(self, shape, *, decodes, beside):
        del shape, decodes, beside
        return Footprint(peak_bytes=MB, stream_bytes=0 if self._rank else 2 * MB)


def open_on_ranks(rank, folder, rule):
    """Open streams until one is refused, let two rest, and open others in their place.

    Returns:
        Pages, pages in host memory, streams that were opened, and whether the first one may come back.
    """
    layout = Layout.parse("ulysses=2")
    mesh = Mesh.create([layout], rank.device, timeout_s=60)
    lane = mesh.lane(layout)
    station = Station(heads_of=(lane.ulysses.index, 2), least=partial(find_least, lane.everyone, rank.device))
    rooms = MemoryRooms(open_checkpoint(folder, device="cpu"), [station], gauge=Uneven(rank.rank))
    recipe = Recipe(
        name="stream",
        schedule=Schedule(solver=Solver.X0_RENOISE, timesteps=(1000.0, 500.0)),
        guidance=Guidance(scale=1.0),
        chunking=Chunking(latent_frames=2),
        memory=rule,
    )
    streams = []

    def fill():
        while True:
            request = make_request(str(len(streams)), recipe=recipe, latent_frames=8, width=48, height=32)
            try:
                streams.append(rooms.open(request, station))
            except ResourceError:
                return

    fill()
    first = len(streams)
    for stream in streams[:2]:
        stream.park()
    fill()
    try:
        rooms.prefetch(streams[0])
    except ResourceError:
        returns = False
    else:
        returns = True
    (room,) = rooms._rooms.values()
    return room.arena.pages, room.host.pages, first, len(streams), returns
