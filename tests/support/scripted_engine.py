"""An engine whose steps end when a test says so; it puts requests down and takes them up again."""

import threading

import numpy as np

from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import EndedError
from reelray.proto.events import Done, Frames, Progress, Stage
from reelray.proto.layout import Layout
from reelray.proto.request import RenderSummary
from reelray.proto.snapshot import Snapshot, SnapshotKind
from tests.support.fake_engine import DIGEST, FACTS


class ScriptedEngine:
    """Works on any number of requests at once.

    Attributes:
        running: Those that it works on, by name.
        made: Prompt and steps of each attempt, as it ended.
    """

    def __init__(self, lanes: int) -> None:
        layout = Layout(replica=lanes)
        self.description = EngineDescription(facts=FACTS, digest=DIGEST, device="cpu", dtype="float32", layout=layout)
        self.running: dict[str, ScriptedRun] = {}
        self.made: list[tuple[str, int, int]] = []

    def render(self, request, snapshot=None):
        run = ScriptedRun(self, request, 0 if snapshot is None else snapshot.windows)
        self.running[request.request_id] = run
        return run

    def snapshot(self, request_id, _kind):
        run = self.running.get(request_id)
        if run is not None:
            run.wait_for_step()
        if run is None or run.done == run.steps:
            raise EndedError("it is over")
        return Snapshot(
            kind=SnapshotKind.EXACT,
            digest=DIGEST,
            request=run.request,
            windows=run.done,
            decoded=0,
            chunks_begun=1,
            frame=0,
            parts={},
        )

    def tell(self, request_id, _order):
        raise EndedError(f"request {request_id} is not here")

    def close(self):
        for run in list(self.running.values()):
            run.close()


class ScriptedRun:
    """The events of one request; `step` lets the next denoise step end."""

    def __init__(self, engine, request, done):
        self.engine, self.request, self.done, self.first = engine, request, done, done
        self.steps = request.recipe.schedule.steps
        self._permits, self._closed = threading.Semaphore(0), threading.Event()
        self._queue = []
        self._boundary = threading.Condition()
        self.waits = False
        """Whether the next step is under way, and all that came before was taken."""

    def step(self):
        self.waits = False
        self._permits.release()

    def wait_for_step(self):
        """Wait until the step that is under way has ended."""
        with self._boundary:
            done = self.done
            self._boundary.wait_for(lambda: not self.waits or self.done > done or self._closed.is_set(), 20)

    def close(self):
        self._closed.set()
        with self._boundary:
            self._boundary.notify_all()
        self._permits.release()
        self._end()

    def __iter__(self):
        return self

    def __next__(self):
        if self._queue:
            return self._queue.pop(0)
        if self.done == self.steps:
            raise StopIteration
        self.waits = True
        self._permits.acquire()
        if self._closed.is_set():
            raise StopIteration
        with self._boundary:
            self.done += 1
            self._boundary.notify_all()
        if self.done == self.steps:
            self._queue = self._last_words()
            self._end()
        return Progress(request_id=self.request.request_id, stage=Stage.DENOISE, done=self.done, total=self.steps)

    def _end(self):
        if self.engine.running.pop(self.request.request_id, None) is not None:
            self.engine.made.append((self.request.prompt, self.first, self.done))

    def _last_words(self):
        request = self.request
        pixels = np.full((request.frames, request.height, request.width, 3), request.seed % 256, np.uint8)
        frames = Frames(
            request_id=request.request_id,
            first_frame=0,
            count=request.frames,
            height=request.height,
            width=request.width,
            data=pixels.tobytes(),
        )
        summary = RenderSummary(
            request_id=request.request_id,
            model=request.recipe.name,
            model_digest=DIGEST,
            frames=request.frames,
            width=request.width,
            height=request.height,
            seed=request.seed,
            steps=self.steps,
            forwards=self.steps,
            device="cpu",
            dtype="float32",
        )
        return [frames, Done(request_id=request.request_id, summary=summary)]
