"""Several ranks on one machine, over gloo on the loopback interface."""

import os
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from reelray.workers.parallel.local_ranks import choose_context

LIMIT_S = 150


def run_world(case: Callable[[], Any], ranks: int, folder: Path) -> list[Any]:
    """Run `case`, a function of a module, on every rank of a world; returns what each rank returned.

    Raises:
        AssertionError: A rank raised, died or took too long; the message holds what it said.
    """
    context = choose_context("cpu")
    processes = [context.Process(target=_run_rank, args=(case, rank, ranks, folder)) for rank in range(ranks)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + LIMIT_S
    try:
        # One failed rank leaves the others waiting for it.
        while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
            if any(process.exitcode for process in processes):
                break
            time.sleep(0.05)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
    said = [path.read_text() for path in sorted(folder.glob("*.error"))]
    assert not any(process.exitcode for process in processes), "\n".join(said) or "a rank hung or died"
    return [torch.load(folder / f"{rank}.result", weights_only=False) for rank in range(ranks)]


def _run_rank(case: Callable[[], Any], rank: int, ranks: int, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    try:
        store = dist.FileStore(str(folder / "store"), ranks)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=LIMIT_S))
        result = case()
        torch.save(result, folder / f"{rank}.result")
        dist.destroy_process_group()
    except BaseException:  # noqa: BLE001  whatever it was, the parent shows it
        (folder / f"{rank}.error").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        sys.exit(1)
