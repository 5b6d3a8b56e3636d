"""A worker in a process of its own: `python -m tests.support.render_worker URL PREFIX FILES CHECKPOINT STEPS FILE`.

It stands still after so many denoise steps, as soon as it has committed a file of that kind, says so, and waits for
what is done to it.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from reelray.cluster.checkpoint_loader import CheckpointLoader, describe_model
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.open import Store
from reelray.proto.events import Progress, Stage
from tests.support.render_jobs import BY_UNIT, served, work_alone, worker_of

STEP_S = 0.03
"""Each forward takes so much longer: the engine is not far ahead of what is committed."""


async def main(address: StoreAddress, files: Path, checkpoint: Path, stands_still: Callable[[int], bool]) -> None:
    def watch(event) -> None:
        if isinstance(event, Progress) and event.stage is Stage.DENOISE and stands_still(event.done):
            print(f"stands at {event.done}", flush=True)
            sys.stdin.read(1)

    connection = Connection(address)
    with served(describe_model(checkpoint), slow(CheckpointLoader(path=checkpoint, device="cpu")()), watch) as (
        model,
        _,
    ):
        await work_alone(worker_of(Store.over(connection), Artifacts(files), model, rule=BY_UNIT))


def slow(model):
    denoise = model.denoise

    def later(*args, **kwargs):
        time.sleep(STEP_S)
        return denoise(*args, **kwargs)

    model.denoise = later
    return model


def read_words(url: str, prefix: str, *words: str):
    files, checkpoint, steps, kind = words

    def stands_still(done: int) -> bool:
        return done >= int(steps) and any(Path(files).rglob(f"*.{kind}"))

    return StoreAddress(url=url, prefix=prefix), Path(files), Path(checkpoint), stands_still


if __name__ == "__main__":
    torch.set_num_threads(1)
    asyncio.run(main(*read_words(*sys.argv[1:])))
