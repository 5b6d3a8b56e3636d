"""A whole engine in one process: the checkpoint, its rank and the leader, reached by ids instead of by streams."""

import os
from typing import TYPE_CHECKING

import torch

from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import InputError, ReelrayError
from reelray.proto.events import Event
from reelray.proto.request import RenderRequest, RequestId
from reelray.workers.engine.leader import Leader
from reelray.workers.engine.loading import open_timed
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.seams import ModelLoader, StepFormer

if TYPE_CHECKING:
    from reelray.workers.engine.event_stream import EventStream


class EngineHost:
    """Loads a checkpoint and serves it; a client that is elsewhere pulls the events of its requests.

    Args:
        load: Opens the checkpoint.
        core: Decides the steps.

    Raises:
        ReelrayError: The checkpoint cannot be opened.
    """

    def __init__(self, load: ModelLoader, core: StepFormer) -> None:
        # Ray sets OMP_NUM_THREADS to 1 in its workers
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        model, load_s = open_timed(load)
        rank = Rank(model, load_s=load_s)
        self._leader = Leader(core, rank, rank.describe()).start()
        self._streams: dict[RequestId, EventStream] = {}

    @property
    def description(self) -> EngineDescription:
        """What runs here."""
        return self._leader.description

    def submit(self, request: RenderRequest) -> None:
        """Take in a request.

        Raises:
            InputError: The request does not fit the model, or its id is in use.
            EngineError: The engine is lost.
        """
        self._streams[request.request_id] = self._leader.submit(request)

    def take(self, request_id: RequestId, timeout_s: float) -> list[Event | ReelrayError]:
        """Events of a request since the last call, whose frames are thereby acknowledged; an error comes last.

        Raises:
            InputError: No such request.
        """
        stream = self._streams.get(request_id)
        if stream is None:
            raise InputError(f"request {request_id} is not here", ids={"request": str(request_id)})
        items = stream.take(timeout_s)
        if stream.ended:
            self._streams.pop(request_id, None)
        return items

    def cancel(self, request_id: RequestId) -> bool:
        """Stop a request at the next step and forget it; returns whether it was still going on."""
        self._streams.pop(request_id, None)
        return self._leader.cancel(request_id)

    def close(self) -> None:
        """Stop after the step in flight."""
        self._leader.close()
