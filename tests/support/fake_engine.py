"""An engine that draws a moving disc instead of running a model, and the services around it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from reelray.cluster.model_catalog import ModelCatalog, ModelEntry
from reelray.cluster.services import Services
from reelray.cluster.settings import Settings
from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import CheckpointError, EndedError, EngineError
from reelray.proto.events import Done, Event, Frames, Progress, Stage
from reelray.proto.model_facts import ModelFacts
from reelray.proto.recipe import Defaults, Guidance, Recipe, Schedule
from reelray.proto.request import RenderRequest, RenderSummary, RequestId
from reelray.proto.session import Fork, Forked, Order, Standing
from reelray.proto.snapshot import Snapshot, SnapshotKind
from reelray.proto.sparsity import SparsityReport, SparsityUse

FACTS = ModelFacts(
    family="wan",
    task="t2v",
    latent_channels=16,
    spatial_stride=8,
    temporal_stride=4,
    patch=(1, 2, 2),
    text_tokens=64,
    layers=2,
    dim=256,
    parameters=1_000_000,
    positions=None,
)
RECIPE = Recipe(
    name="fake",
    schedule=Schedule(steps=4),
    guidance=Guidance(scale=3.0),
    defaults=Defaults(width=96, height=64, frames=17, fps=16),
    licence="Apache-2.0",
)
DIGEST = "0123abcd"
DESCRIPTION = EngineDescription(facts=FACTS, digest=DIGEST, device="cpu", dtype="float32")


def fake_entry(*, path: Path = Path("/models/fake"), recipe: Recipe = RECIPE, facts: ModelFacts = FACTS) -> ModelEntry:
    return ModelEntry(
        name=path.name, path=path, layout="diffusers", recipe=recipe, facts=facts, weights_bytes=2_000_000
    )


def draw_frames(request: RenderRequest) -> np.ndarray:
    """A disc whose colour and start come from the seed, on a blue gradient."""
    rng = np.random.default_rng(request.seed)
    colour = rng.integers(60, 255, 3)
    rows, columns = np.mgrid[: request.height, : request.width]
    frames = np.zeros((request.frames, request.height, request.width, 3), np.uint8)
    frames[..., 2] = np.linspace(40, 200, request.width)
    for index, frame in enumerate(frames):
        inside = (columns - 10 - 2 * index) ** 2 + (rows - request.height / 2) ** 2 < (request.height / 4) ** 2
        frame[inside] = colour
    return frames


USE = SparsityUse(calls=40, dense=8, attended=16.0)
"""What a video with sparsity leaves out."""


@dataclass
class FakeEngine:
    """Fails with `error` before frame `fail_at_frame`; waits `frame_delay_s` before each batch."""

    error: BaseException | None = None
    fail_at_frame: int = 0
    frame_delay_s: float = 0.0
    drop_last_frame: bool = False
    description: EngineDescription = DESCRIPTION
    requests: list[RenderRequest] = field(default_factory=list)
    streams: list[Iterator[Event]] = field(default_factory=list)
    closed: int = 0
    cancelled: int = 0
    lost: bool = False

    def render(self, request: RenderRequest, snapshot: Snapshot | None = None) -> Iterator[Event]:
        assert snapshot is None, "it never put anything down"
        self.requests.append(request)
        # Kept, so that a forgotten `close` shows: the end of the last reference would close it too.
        self.streams.append(self._stream(request))
        return self.streams[-1]

    def _stream(self, request: RenderRequest) -> Iterator[Event]:
        try:
            yield from self._events(request)
        except GeneratorExit:
            self.cancelled += 1
            raise

    def tell(self, request_id: RequestId, _order: Order) -> Standing:
        if self.lost:
            raise EngineError("the engine takes no orders: it was lost")
        raise EndedError(f"request {request_id} is not here")

    def snapshot(self, request_id: RequestId, _kind: SnapshotKind) -> Snapshot:
        raise EndedError(f"request {request_id} is not here")

    def fork(self, request_id: RequestId, _fork: Fork) -> tuple[Forked, Iterator[Event]]:
        raise EndedError(f"request {request_id} is not here")

    def close(self) -> None:
        self.closed += 1

    def _events(self, request: RenderRequest) -> Iterator[Event]:
        steps = request.recipe.schedule.steps
        yield Progress(request_id=request.request_id, stage=Stage.TEXT, done=1, total=1)
        for step in range(steps):
            yield Progress(request_id=request.request_id, stage=Stage.DENOISE, done=step + 1, total=steps)
        frames = draw_frames(request)
        for first in range(0, request.frames - self.drop_last_frame, 4):
            if self.error is not None and first + 4 > self.fail_at_frame:
                raise self.error
            time.sleep(self.frame_delay_s)
            batch = frames[first : min(first + 4, request.frames - self.drop_last_frame)]
            yield Frames(
                request_id=request.request_id,
                first_frame=first,
                count=len(batch),
                height=request.height,
                width=request.width,
                data=batch.tobytes(),
            )
            done = first + len(batch)
            yield Progress(request_id=request.request_id, stage=Stage.DECODE, done=done, total=request.frames)
        yield Done(
            request_id=request.request_id,
            summary=RenderSummary(
                request_id=request.request_id,
                model=request.recipe.name,
                model_digest=DIGEST,
                frames=request.frames,
                width=request.width,
                height=request.height,
                seed=request.seed,
                steps=steps,
                forwards=2 * steps,
                device="cpu",
                dtype="float32",
                stage_s={"text": 0.1, "denoise": 1.0, "decode": 0.5},
                peak_bytes=123,
                sparsity=None if request.sparsity is None else SparsityReport(policy=request.sparsity, use=USE),
            ),
        )


def fake_services(
    engine: FakeEngine,
    models: Path,
    *,
    entry: Callable[[Path], ModelEntry] = lambda path: fake_entry(path=path),
) -> Services:
    """Services whose catalog holds the folders of `models` that contain a `manifest.yaml`."""

    def describe(path: Path) -> ModelEntry:
        if not (path / "manifest.yaml").exists():
            raise CheckpointError(f"folder '{path}' is not a checkpoint: it has no manifest.yaml")
        return entry(path)

    presets = {"fake": RECIPE, "wan2.1-t2v-1.3b": RECIPE}
    return Services(
        load_settings=lambda: Settings(model="fake"),
        open_catalog=lambda _settings: ModelCatalog((models,), presets, describe),
        open_engine=lambda _kind, _entry, _device, _placement, _residency: engine,
    )


def write_models(folder: Path, *names: str) -> Path:
    """Make folders that `fake_services` takes for checkpoints."""
    for name in names or ("fake",):
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.yaml").touch()
    return folder
