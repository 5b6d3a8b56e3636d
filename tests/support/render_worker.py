"""A worker in a process of its own: `python -m tests.support.render_worker URL PREFIX FILES CHECKPOINT STEPS`.

It stands still after so many denoise steps, says so, and waits for what is done to it.
"""

import asyncio
import logging
import sys
from pathlib import Path

import torch

from reelray.cluster.checkpoint_loader import describe_model
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.store.connection import Connection, StoreAddress
from reelray.cluster.store.open import Store
from reelray.proto.events import Progress, Stage
from tests.support.render_jobs import BY_UNIT, served, worker_of


async def main(url: str, prefix: str, files: str, checkpoint: str, steps: str) -> None:
    left = int(steps)

    def stand_still(event) -> None:
        nonlocal left
        if isinstance(event, Progress) and event.stage is Stage.DENOISE:
            left -= 1
            if left == 0:
                print(f"stands at {event.done}", flush=True)
                sys.stdin.read(1)

    connection = Connection(StoreAddress(url=url, prefix=prefix))
    with served(describe_model(Path(checkpoint)), watch=stand_still) as (model, _):
        print("ready", flush=True)
        await worker_of(Store.over(connection), Artifacts(files), model, rule=BY_UNIT).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    asyncio.run(main(*sys.argv[1:]))
