"""Opens the memories of a rank's streams, and gives pages what nothing else needs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from reelray.proto.errors import ReelrayError, ResourceError, UnsupportedError
from reelray.proto.memory_rule import Commit, MemoryRule
from reelray.proto.model_facts import ModelFacts
from reelray.proto.request import RenderRequest, RequestId
from reelray.workers.engine.failure import is_out_of_memory
from reelray.workers.engine.footprint import Footprint, Gauge, ShapeClass, find_gauge
from reelray.workers.engine.page_budget import Need, PageBudget
from reelray.workers.engine.station import Station
from reelray.workers.engine.stream_memory import StreamMemory, open_memory
from reelray.workers.memory.room import PAGE_ROWS, Grid, MemoryRoom, find_need
from reelray.workers.models.api import VideoModel
from reelray.workers.models.free_memory import free_bytes
from reelray.workers.parallel.token_split import split_evenly

SHARE = 0.25
"""Part of the memory of a machine that is free when the first stream comes and becomes pages, where nothing says how
much a stream needs besides: others have that memory too."""
HOST_SHARE = 0.5
"""Part of the free memory of the host that videos which rest may fill, shared by the ranks of a gang."""
_FAILED, _REFUSED, _OPENED = range(3)  # what came of a stream on a rank


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wish:
    """What a request has to be remembered.

    Args:
        rule: Of its recipe.
        chunk: Latent frames of a chunk.
        first: Latent frames of the first chunk, if that is longer.
        grid: Tokens of a latent frame.
        branches: Of guidance.
        levels: Noise levels with memories of their own.
        shape: Of its forwards and decodes.
        seats: How many streams like it may share a forward.
    """

    rule: MemoryRule
    chunk: int
    first: int
    grid: Grid
    branches: int
    levels: int
    shape: ShapeClass
    seats: int

    @classmethod
    def of(cls, request: RenderRequest, rule: MemoryRule, facts: ModelFacts, seats: int) -> "_Wish":
        chunk = request.recipe.chunking.latent_frames
        assert chunk is not None
        rows, columns = facts.latent_size(request.width, request.height)
        _, patch_rows, patch_columns = facts.patch
        branches = 2 if request.recipe.guidance.needs_unconditional else 1
        return cls(
            rule=rule,
            chunk=chunk,
            first=request.recipe.chunking.first_latent_frames or 0,
            grid=Grid(rows=rows // patch_rows, columns=columns // patch_columns),
            branches=branches,
            levels=request.recipe.schedule.length if rule.commit is Commit.EVERY_STEP else 1,
            shape=replace(ShapeClass.of(request, facts), rows=seats * branches if seats > 1 else 1),
            seats=seats,
        )

    @property
    def memories(self) -> int:
        return self.branches * self.levels

    @property
    def kind(self) -> dict[str, Any]:
        """What a room is told of each of its memories."""
        return {"grid": self.grid, "chunk": self.chunk, "first": self.first, "seats": self.seats}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """A stream that was opened.

    Args:
        stream: Gone or closed when it is over.
        station: Where.
        shape: Of its forwards and decodes.
    """

    stream: ref[StreamMemory]
    station: Station
    shape: ShapeClass

    @property
    def is_open(self) -> bool:
        stream = self.stream()
        return stream is not None and stream.is_open

    @property
    def is_awake(self) -> bool:
        stream = self.stream()
        return stream is not None and stream.is_open and not stream.rests


class MemoryRooms:
    """The memory of all streams of one rank, in a room for each of its stations: a gang is in one layout at a time.

    On a GPU the first stream of a class is preceded by a dry run, which says what forwards and decoders of the class
    need; pages get the rest. When no stream is left, a class that needs more has it divided anew. All ranks of a lane
    come to the same: they open the same streams in the same order, and agree on every number.

    Args:
        model: Whose keys and values are remembered; its `page_bytes`, if any, are the bytes of all pages, and its
            `host_bytes` those of streams that rest.
        stations: Of the rank.
        on_progress: Called for every forward that is repeated to come by a lost memory again.
        gauge: Says what streams need; by default a dry run on a GPU, and nothing on a CPU.
    """

    def __init__(
        self,
        model: VideoModel,
        stations: Iterable[Station] = (),
        on_progress: Callable[[], None] = lambda: None,
        gauge: Gauge | None = None,
    ) -> None:
        self.on_progress = on_progress
        self._model = model
        self._gauge = gauge or find_gauge(model, on_progress)
        remembering = [station for station in stations if station.role.denoises and station.remembers]
        self._shares = max(1, len({(station.heads_of, station.layout) for station in remembering}))
        self._fixed: int | None = None
        self._budgets: dict[Station, PageBudget] = {}
        self._rooms: dict[Station, MemoryRoom] = {}
        self._entries: list[_Entry] = []
        self._clips: dict[RequestId, Station] = {}  # whole clips that are being made

    def open(self, request: RenderRequest, station: Station, *, seats: int = 1) -> StreamMemory | None:
        """Begin to remember a request; None where its recipe remembers nothing.

        Args:
            request: The request.
            station: Where.
            seats: How many requests like it may share a forward.

        Raises:
            ResourceError: There is no room for it.
            UnsupportedError: The ranks split what would have to be remembered whole.
        """
        if request.recipe.memory is None:
            self._make_way(station)
            self._clips[request.request_id] = station
            return None
        if station.pipeline is not None:
            raise UnsupportedError("ranks that split the layers remember nothing; use ulysses for streams of chunks")
        wish = _Wish.of(request, request.recipe.memory, self._model.facts, seats)
        self._entries = [entry for entry in self._entries if entry.is_open]
        if self._gauge is not None and self._model.page_bytes is None:
            self._divide(wish, station, self._gauge)
        stream = self._open(wish, station)
        self._entries.append(_Entry(stream=ref(stream), station=station, shape=wish.shape))
        return stream

    def forget(self, request_id: RequestId) -> None:
        """Note that a request is over, or goes on elsewhere."""
        self._clips.pop(request_id, None)

    def park(self, stream: StreamMemory, beside: Sequence[Tensor] = ()) -> None:
        """Let a stream rest on every rank of its lane, or on none; all of them must call this.

        Args:
            stream: May rest already.
            beside: See `StreamMemory.park`.

        Raises:
            ResourceError: A rank has no host memory for it; it stays awake.
        """
        if stream.rests:
            return
        error = None
        try:
            stream.park(beside)
        except ResourceError as failed:
            error = failed
        if not self._find(stream).station.least(int(error is None)):
            if error is None:
                stream.unpark(len(beside))
            raise ResourceError("a rank of the lane has no host memory to put this video to rest") from error

    def prefetch(self, stream: StreamMemory) -> None:
        """Let a stream that rests begin to come back; one that is awake is.

        Raises:
            ResourceError: There is no room for it at present.
        """
        if stream.rests:
            entry = self._find(stream)
            if entry.station in self._budgets:
                self._budgets[entry.station].check(entry.shape, self._awake(entry.station))
        stream.prefetch()

    def fork(self, stream: StreamMemory, *, rests: bool = False, beside: Sequence[Tensor] = ()) -> StreamMemory:
        """A stream that goes its own way from here; see `StreamMemory.fork`.

        Raises:
            ResourceError: There is no room for it; of host memory half is left to streams that are put to rest.
        """
        self.check_fork(stream, rests=rests)
        other = stream.fork(rests=rests, beside=beside)
        self._entries.append(replace(self._find(stream), stream=ref(other)))
        return other

    def check_fork(self, stream: StreamMemory, *, rests: bool = False) -> None:
        """Refuse a fork for which nothing is left, before anything is copied; see `fork`.

        Raises:
            ResourceError: There is no room for it.
        """
        entry = self._find(stream)
        if rests and not stream.rests:
            host = self._rooms[entry.station].host
            if 2 * host.free < host.pages:
                raise ResourceError("what is left of the host memory is for streams that are put to rest")
        elif entry.station in self._budgets and not stream.rests:
            self._budgets[entry.station].check(entry.shape, self._awake(entry.station))

    def close(self) -> None:
        """Free all of it."""
        for room in self._rooms.values():
            room.close()
        self._rooms.clear()

    def _find(self, stream: StreamMemory) -> _Entry:
        (entry,) = (entry for entry in self._entries if entry.stream() is stream)
        return entry

    def _make_way(self, station: Station) -> None:
        """Leave a whole clip the memory that the last stream has left; beside streams it has what they do not need.

        Only that of the same station: its ranks do the same, and go on to agree on what the next stream gets.
        """
        self._entries = [entry for entry in self._entries if entry.is_open]
        if station in self._budgets and not any(entry.station is station for entry in self._entries):
            del self._budgets[station]
            if station in self._rooms:
                self._rooms.pop(station).close()

    def _open(self, wish: _Wish, station: Station) -> StreamMemory:
        """Have every rank of the lane know when one of them has no room: the others would wait for it later."""
        kinds = [{**wish.kind, "branch": number} for number in range(wish.memories)]
        stream, error, had_room = None, None, station in self._rooms
        try:
            room = self._room(station)
            room.check(wish.rule, branches=wish.memories, **wish.kind)
            stream = open_memory(wish.rule, kinds, room=room, branches=wish.branches)
        except (ReelrayError, RuntimeError, MemoryError) as failed:  # all that an allocation may raise
            error = failed
        worst = station.least(_grade(error))
        if stream is not None and worst == _OPENED:
            return stream
        if stream is not None:
            stream.close()
        if worst == _FAILED and not had_room:
            self._give_up(station)
        if error is None or is_out_of_memory(error):
            raise ResourceError("a rank that shares this video has no memory to remember it in") from error
        raise error

    def _give_up(self, station: Station) -> None:
        """Have the memory divided anew on all ranks of a lane: one of them could not make its room."""
        self._budgets.pop(station, None)
        if station in self._rooms:
            self._rooms.pop(station).close()

    def _awake(self, station: Station) -> list[ShapeClass]:
        return [entry.shape for entry in self._entries if entry.station is station and entry.is_awake]

    def _divide(self, wish: _Wish, station: Station, gauge: Gauge) -> None:
        """Have a division of the memory that serves this stream.

        Raises:
            ResourceError: There is one for streams that go on, and it does not.
        """
        known, goes_on = self._budgets.get(station), any(entry.station is station for entry in self._entries)
        if known is not None and (goes_on or wish.shape.needs_no_more_than(known.shape)):
            known.check(wish.shape, self._awake(station))
            return
        if station in self._clips.values():
            raise ResourceError(
                "a whole clip is being made, and what its forwards take of the device's memory is not known beside "
                "those of streams; ask again when it is over, or set REELRAY_MEMORY_GB to what streams may take"
            )
        if station in self._rooms:
            self._rooms.pop(station).close()
        footprint = self._measure(wish.shape, station, gauge)
        key_shape = self._model.key_shape(len(self._heads(station)))
        own, shared = find_need(key_shape, wish.rule, chunk=wish.chunk, first=wish.first, grid=wish.grid)
        need = Need(own_bytes=wish.memories * own, shared_bytes=wish.memories * shared * wish.seats)
        budget = PageBudget.divide(gauge.free(), wish.shape, footprint, need, station.least)
        # Ranks may have rooms of other layouts, and not as many: who promises less speaks for all.
        page_bytes = station.least(budget.page_bytes // self._rooms_to_come)
        self._budgets[station] = replace(budget, page_bytes=page_bytes)

    def _measure(self, shape: ShapeClass, station: Station, gauge: Gauge) -> Footprint:
        """Have every rank of the lane know when one of them cannot run it: the others would wait for it."""
        footprint, error = None, None
        try:
            footprint = gauge.measure(shape, decodes=station.role.decodes, beside=station.decodes_beside)
        except (ResourceError, torch.OutOfMemoryError) as failed:
            error = failed
        all_ran = station.least(int(footprint is not None))
        if footprint is None or not all_ran:
            raise ResourceError(
                f"one window and one decode of {shape.width}x{shape.height} do not fit into the device's memory beside "
                "the model; ask for a smaller picture, or share it among more ranks"
            ) from error
        return footprint

    @property
    def _rooms_to_come(self) -> int:
        """Other layouts will want rooms of their own."""
        return max(1, self._shares - len(self._rooms))

    def _heads(self, station: Station) -> range:
        index, ranks = station.heads_of
        return split_evenly(self._model.heads, ranks)[index]

    def _room(self, station: Station) -> MemoryRoom:
        if station not in self._rooms:
            model, heads = self._model, self._heads(station)
            self._rooms[station] = MemoryRoom(
                model.key_shape(len(heads)),
                budget_bytes=self._page_bytes(station),
                device=torch.device(model.device),
                angles=model.angles,
                first_head=heads.start,
                rows=PAGE_ROWS,
                host_bytes=station.least(self._host_bytes(station)),
            )
        return self._rooms[station]

    def _page_bytes(self, station: Station) -> int:
        if station in self._budgets:
            return self._budgets[station].page_bytes
        if self._fixed is None:
            self._fixed = self._model.page_bytes or int(free_bytes(self._model.device) * SHARE)
        taken = sum(room.arena.pages * room.arena.page_bytes for room in self._rooms.values())
        return station.least(max(0, self._fixed - taken) // self._rooms_to_come)

    def _host_bytes(self, station: Station) -> int:
        ranks = station.heads_of[1] if station.layout is None else station.layout.ranks
        whole = self._model.host_bytes or free_bytes(torch.device("cpu")) * HOST_SHARE
        return int(whole / ranks / self._shares)


def _grade(error: Exception | None) -> int:
    """What came of a stream, as a number that ranks compare."""
    if error is None:
        return _OPENED
    return _REFUSED if isinstance(error, ReelrayError) else _FAILED
