"""Opens the memories of a rank's streams, in a room for each share of the heads that the rank ever has."""

from collections.abc import Callable

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
"""Part of the memory that is free when the first stream comes; the rest is for workspaces, decoders and forwards."""


class MemoryRooms:
    """The memory of all streams of one rank.

    Args:
        model: Whose keys and values are remembered.
        on_progress: Called for every forward that is repeated to come by a lost memory again.
    """

    def __init__(self, model: VideoModel, on_progress: Callable[[], None] = lambda: None) -> None:
        self.on_progress = on_progress
        self._model = model
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
        return StreamMemory(
            rule,
            chunk=chunk,
            grid=Grid(rows=rows // patch_rows, columns=columns // patch_columns),
            room=self._room(station),
            branches=2 if request.recipe.guidance.needs_unconditional else 1,
        )

    def close(self) -> None:
        """Free all of it."""
        self._rooms.clear()

    def _room(self, station: Station) -> MemoryRoom:
        if station.heads_of not in self._rooms:
            model, (index, ranks) = self._model, station.heads_of
            heads = split_evenly(model.heads, ranks)[index]
            # Gangs that change their layout have a room for each; all live in what one may take.
            others = sum(room.pool.pages * room.pool.page_bytes for room in self._rooms.values())
            free = free_bytes(model.device) + others
            self._rooms[station.heads_of] = MemoryRoom(
                model.key_shape(len(heads)),
                budget_bytes=max(0, int(free * SHARE[model.device.type]) - others),
                device=torch.device(model.device),
                turn=model.turn_keys,
                first_head=heads.start,
                rows=PAGE_ROWS,
            )
        return self._rooms[station.heads_of]
