"""Opens the memories of a rank's streams, in a room for each share of the heads that the rank ever has."""

from collections.abc import Callable, Iterable

import torch

from reelray.proto.errors import UnsupportedError
from reelray.proto.request import RenderRequest
from reelray.workers.engine.station import Station
from reelray.workers.engine.stream_memory import StreamMemory
from reelray.workers.memory.room import PAGE_ROWS, Grid, MemoryRoom
from reelray.workers.models.api import VideoModel
from reelray.workers.models.free_memory import free_bytes
from reelray.workers.parallel.token_split import split_evenly

SHARE = {"cuda": 0.6, "cpu": 0.25}
"""Part of the memory that is free when the first stream comes and becomes pages and workspaces; decoders and forwards
need the rest."""

HOST_SHARE = 0.5
"""Part of the free memory of the host that videos which rest may fill, shared by the ranks of a lane."""


class MemoryRooms:
    """The memory of all streams of one rank.

    Args:
        model: Whose keys and values are remembered.
        stations: Of the rank: layouts that share the heads in another way have rooms of their own.
        on_progress: Called for every forward that is repeated to come by a lost memory again.
    """

    def __init__(
        self, model: VideoModel, stations: Iterable[Station] = (), on_progress: Callable[[], None] = lambda: None
    ) -> None:
        self.on_progress = on_progress
        self._model = model
        self._shares = max(1, len({station.heads_of for station in stations if station.role.denoises}))
        self._budget: int | None = None
        self._rooms: dict[tuple[int, int], MemoryRoom] = {}

    def open(self, request: RenderRequest, station: Station) -> StreamMemory | None:
        """Begin to remember a request; None where its recipe remembers nothing.

        Raises:
            ResourceError: There is no room for it.
            UnsupportedError: The ranks split what would have to be remembered whole.
        """
        rule, model = request.recipe.memory, self._model
        if rule is None:
            return None
        if station.pipeline is not None:
            raise UnsupportedError("ranks that split the layers remember nothing; use ulysses for streams of chunks")
        chunk = request.recipe.chunking.latent_frames
        assert chunk is not None
        rows, columns = model.facts.latent_size(request.width, request.height)
        _, patch_rows, patch_columns = model.facts.patch
        grid, room = Grid(rows=rows // patch_rows, columns=columns // patch_columns), self._room(station)
        branches = 2 if request.recipe.guidance.needs_unconditional else 1
        room.check(rule, chunk=chunk, grid=grid, branches=branches)
        return StreamMemory(rule, chunk=chunk, grid=grid, room=room, branches=branches)

    def close(self) -> None:
        """Free all of it."""
        for room in self._rooms.values():
            room.close()
        self._rooms.clear()

    def _room(self, station: Station) -> MemoryRoom:
        if station.heads_of not in self._rooms:
            model, (index, ranks) = self._model, station.heads_of
            heads = split_evenly(model.heads, ranks)[index]
            if self._budget is None:
                self._budget = int(free_bytes(model.device) * SHARE[model.device.type] / self._shares)
            self._rooms[station.heads_of] = MemoryRoom(
                model.key_shape(len(heads)),
                # Every rank of a lane promises the same, so that all refuse a stream or none.
                budget_bytes=station.least(self._budget),
                device=torch.device(model.device),
                angles=model.angles,
                first_head=heads.start,
                rows=PAGE_ROWS,
                host_bytes=station.least(int(free_bytes(torch.device("cpu")) * HOST_SHARE / ranks)),
            )
        return self._rooms[station.heads_of]
