"""Streams through the real engine: frames a second, memory over time, and what the detector sees at both ends."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from examples.train_sprites.judging import Judge, count_right
from reelray.cluster.checkpoint_loader import CheckpointLoader
from reelray.cluster.local_engine import LocalEngine
from reelray.proto.events import Frames
from reelray.proto.request import RenderRequest, RequestId
from reelray.quality.sprites.scene import Scene
from reelray.workers.models.registry import describe_checkpoint

JUDGED = 160
SETTLED_FRAMES = 160
"""Pixel frames after which memory is full and the allocator knows every size."""


@dataclass(kw_only=True)
class Watch:
    """What is kept of one stream: its ends, and times and memory of each batch of frames.

    Args:
        started: `time.monotonic()` at its submission.
        on_gpu: Whether the device's memory counts, or the process'.
    """

    started: float
    on_gpu: bool
    first: list[NDArray[np.uint8]] = field(default_factory=list)
    last: deque[NDArray[np.uint8]] = field(default_factory=lambda: deque(maxlen=JUDGED))
    seconds: list[float] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)

    def note(self, frames_FHWC: NDArray[np.uint8]) -> None:
        """Take in a batch of frames."""
        self.seconds.append(time.monotonic() - self.started)
        self.frames.append(len(frames_FHWC))
        used = torch.cuda.memory_allocated() if self.on_gpu else psutil.Process().memory_info().rss
        self.memory_bytes.append(int(used))
        self.first += [frame.copy() for frame in frames_FHWC[: max(0, JUDGED - len(self.first))]]
        self.last.extend(frame.copy() for frame in frames_FHWC)

    def report(self) -> dict[str, Any]:
        """Rates and memory, once memory has filled."""
        done = np.cumsum(self.frames)
        settled = int(np.searchsorted(done, min(SETTLED_FRAMES, done[-1] // 2)))
        # Looked at when frames arrive, in the midst of some forward: of each ten seconds the usual value counts.
        parts = np.array_split(np.array(self.memory_bytes[settled:], dtype=float), max(1, int(done[-1]) // JUDGED - 1))
        usual = np.array([np.median(part) for part in parts if len(part)])
        rate = (done[-1] - done[settled]) / max(1e-9, self.seconds[-1] - self.seconds[settled])
        return {
            "frames": int(done[-1]),
            "first_frame_s": round(self.seconds[0], 3),
            "whole_s": round(self.seconds[-1], 2),
            "frames_per_s": round(float(rate), 2),
            "memory_mb": round(float(np.median(usual)) / 1e6, 1),
            "memory_swing": round(float((usual.max() - usual.min()) / np.median(usual)), 4),
            "memory_peak_mb": round(max(self.memory_bytes) / 1e6, 1),
        }


def run_streams(
    checkpoint: Path, captions: Sequence[tuple[str, Scene]], judge: Judge, *, seconds: float, device: str
) -> dict[str, Any]:
    """Make streams one after the other; the last one is measured, when everything is warm.

    Args:
        checkpoint: Streams.
        captions: With what each should show.
        judge: Runs the detector.
        seconds: Length of each.
        device: ``cpu`` or ``cuda``.
    """
    first, last = [], []
    with LocalEngine.open(CheckpointLoader(path=checkpoint.resolve(), device=device)) as engine:
        for number, (caption, scene) in enumerate(captions):
            watch = Watch(started=time.monotonic(), on_gpu=device == "cuda")
            for event in engine.render(stream_request(checkpoint, caption, number, seconds)):
                if isinstance(event, Frames):
                    shape = (event.count, event.height, event.width, 3)
                    watch.note(np.frombuffer(event.data, np.uint8).reshape(shape))
            first.append((scene, judge.submit(np.stack(watch.first), scene)))
            last.append((scene, judge.submit(np.stack(list(watch.last)), scene)))
    return {
        "streams": len(captions),
        **watch.report(),
        "first_10s": count_right(first),
        "last_10s": count_right(last),
    }


def stream_request(checkpoint: Path, caption: str, number: int, seconds: float) -> RenderRequest:
    """The request that `reelray stream CAPTION --seed NUMBER --seconds SECONDS` makes."""
    description = describe_checkpoint(checkpoint)
    recipe = description.recipe
    latent_frames = -(-round(seconds * recipe.defaults.fps - 1) // description.facts.temporal_stride) + 1
    return RenderRequest(
        request_id=RequestId(f"stream-{number}"),
        prompt=caption,
        negative_prompt=recipe.defaults.negative_prompt,
        width=recipe.defaults.width,
        height=recipe.defaults.height,
        frames=description.facts.frames(latent_frames),
        seed=number,
        recipe=recipe,
    )
