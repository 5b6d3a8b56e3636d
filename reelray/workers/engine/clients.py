"""Who waits for what an engine makes: the streams of events, their accounts, and those who asked for a copy."""

import queue
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import InputError, ReelrayError
from reelray.proto.events import Done, Progress, Stage
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.session import Forked, Say
from reelray.proto.snapshot import Snapshot
from reelray.proto.step_plan import StepReport
from reelray.workers.engine.account import Account
from reelray.workers.engine.event_stream import EventStream
from reelray.workers.engine.frame_box import keep_frames
from reelray.workers.engine.seams import StepFormer


class Answer(queue.SimpleQueue[Any]):
    """Where the answer to whoever waits for a snapshot or a fork goes.

    Args:
        prompt: What a fork is to show.
    """

    def __init__(self, prompt: str | None) -> None:
        super().__init__()
        self.prompt = prompt

    def wait(self) -> Any:
        """The answer.

        Raises:
            ReelrayError: What it is, if it is one.
        """
        found = self.get()
        if isinstance(found, ReelrayError):
            raise found
        return found


class Clients:
    """The clients of all requests; whoever calls holds the leader's lock.

    Args:
        core: Is told what a fork is to show, and of forks that nobody waits for.
        description: The engine, for summaries.
        acknowledge: See `EventStream`; it is given the request too.
        cancel: The same.
    """

    def __init__(
        self,
        core: StepFormer,
        description: EngineDescription,
        *,
        acknowledge: Callable[[RequestId, int], None],
        cancel: Callable[[RequestId], object],
    ) -> None:
        self._core, self._description = core, description
        self._acknowledge, self._cancel = acknowledge, cancel
        self.streams: dict[RequestId, EventStream] = {}
        self.accounts: dict[RequestId, Account] = {}
        self._asked: dict[RequestId, Answer] = {}

    def open(self, request: RenderRequest) -> EventStream:
        """Have a stream for a request that the core has taken in."""
        request_id = request.request_id
        acknowledge, cancel = partial(self._acknowledge, request_id), partial(self._cancel, request_id)
        stream = EventStream(request_id, acknowledge=acknowledge, cancel=cancel)
        self.streams[request_id] = stream
        self.accounts[request_id] = Account(request, self._description)
        stream.put(Progress(request_id=request_id, stage=Stage.TEXT, done=0, total=1))
        return stream

    def ask(self, request_id: RequestId, prompt: str | None) -> Answer:
        """Have somebody wait for a copy of a request; see `Answer`."""
        self._asked[request_id] = Answer(prompt)
        return self._asked[request_id]

    def take(self, report: StepReport) -> None:
        """Hand on frames and costs."""
        for account in self.accounts.values():
            account.peak_bytes = report.peak_bytes
        for cost in report.costs:
            if cost.request_id in self.accounts:
                self.accounts[cost.request_id].add(cost)
        for request_id, use in report.uses:
            if request_id in self.accounts:
                self.accounts[request_id].add_use(use)
        for frames in keep_frames(report).frames:
            if frames.request_id in self.streams:
                self.streams[frames.request_id].put(frames)

    def put_snapshot(self, snapshot: Snapshot) -> None:
        """Hand on a snapshot to whoever still waits for it."""
        if (asked := self._asked.pop(snapshot.request.request_id, None)) is not None:
            asked.put(snapshot)

    def put_fork(self, forked: Forked) -> None:
        """Have a stream of what was forked, before its first step, and hand it to whoever waits for it."""
        request, asked = forked.request, self._asked.pop(forked.source, None)
        if asked is None:
            self._core.cancel(request.request_id)
        elif forked.error is not None:
            asked.put(forked.error)
        else:
            self._begin(forked, asked)

    def finish(self, request_id: RequestId) -> None:
        """Close a stream that is complete."""
        self.close(request_id, Done(request_id=request_id, summary=self.accounts[request_id].summary()))

    def close(self, request_id: RequestId, last: Done | ReelrayError) -> None:
        """Close a stream with its last event, or the error that ends it."""
        if request_id in self._asked:
            ids = {"request": str(request_id)}
            self._asked.pop(request_id).put(InputError("the stream ended before it could be put down", ids=ids))
        del self.accounts[request_id]
        self.streams.pop(request_id).put(last)

    def _begin(self, forked: Forked, asked: Answer) -> None:
        request = forked.request
        try:
            if asked.prompt is not None:
                standing = self._core.tell(request.request_id, Say(prompt=asked.prompt))
                request = replace(request, prompt=standing.prompt, changes=standing.changes)
        except ReelrayError as error:
            self._core.cancel(request.request_id)
            asked.put(error)
            return
        asked.put((replace(forked, request=request), self.open(request)))
