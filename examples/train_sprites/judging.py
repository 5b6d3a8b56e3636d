"""The detector in processes beside the training: clips go in, shares of right answers come out later."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from reelray.quality.sprites.detector import Verdict, score
from reelray.quality.sprites.scene import Scene

WORKERS = 14


class Judge:
    """A pool of spawned processes that runs the detector; start-up costs nothing until the first clip.

    Args:
        workers: Processes; None takes one per core but two, 14 at most.
    """

    def __init__(self, workers: int | None = None) -> None:
        # The processes are the parallelism: with a thread per core in each of them they stand in each other's way.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")
        # Spawned: a fork would copy torch's threads, and the GPU's context, in mid-air.
        count = workers or max(1, min(WORKERS, (os.cpu_count() or 1) - 2))
        self._pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"))

    def submit(self, clip_THWC: NDArray[np.uint8], scene: Scene) -> Future[Verdict]:
        """Judge one clip, later."""
        return self._pool.submit(score, clip_THWC, scene)

    def submit_all(
        self, clips: Iterable[NDArray[np.uint8]], scenes: Sequence[Scene]
    ) -> list[tuple[Scene, Future[Verdict]]]:
        """Judge clips against their scenes, later."""
        return [(scene, self.submit(clip, scene)) for clip, scene in zip(clips, scenes, strict=True)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)


def count_right(judged: Sequence[tuple[Scene, Future[Verdict]]]) -> dict[str, float]:
    """Shares of right clips by attribute, with those of the one-sprite clips and of wholly right ones; waits."""
    verdicts = [(scene, future.result()) for scene, future in judged]
    single = [verdict.to_dict() for scene, verdict in verdicts if len(scene.sprites) == 1]
    right = shares([verdict.to_dict() for _, verdict in verdicts])
    alone = {f"single_{name}": share for name, share in shares(single).items()}
    whole = sum(verdict.is_all_right for _, verdict in verdicts) / max(1, len(verdicts))
    return {**right, "all": round(whole, 4), **alone}


def shares(verdicts: Sequence[dict[str, bool]]) -> dict[str, float]:
    """Share of clips that are right, by attribute."""
    return {name: round(sum(v[name] for v in verdicts) / len(verdicts), 4) for name in verdicts[0]} if verdicts else {}
