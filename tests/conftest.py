"""Fixtures that several rooms share."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from reelray.workers.engine.cores import count_cores
from reelray.workers.parallel import local_ranks

LONG = ("integration", "faults", "kernels/test_interpreted.py", "workers/engine", "workers", "examples", "cluster")
"""Folders and files that take longest: they come first, so that no process waits for the last one."""

IMPORTS_OF_RANKS = [
    *("pydantic.dataclasses", "tokenizers.implementations", "torch.utils._device"),
    *("reelray.cluster.checkpoint_loader", "reelray.workers.engine.gang_rank", "reelray.workers.models.wan.checkpoint"),
]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: a process more than there are cores, since many tests wait for servers that start and end."""
    return count_cores() + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first; within a file the order stays."""
    here = Path(__file__).parent
    items.sort(
        key=lambda item: next((n for n, name in enumerate(LONG) if item.path.is_relative_to(here / name)), len(LONG))
    )


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny tensors: more threads only wait for each other, ten times longer where other work shares the cores.

    For every test anew: an engine's host takes all cores for its process, and other threads are other last bits.
    """
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _idle_threads_sleep() -> Iterator[None]:
    """Processes of tests have more threads than there are cores: one that waits for another must not keep a core.

    OpenMP's wait in a loop by themselves. Where other work shares the cores, a stream of a tiny model on two threads
    takes thirty times the CPU seconds that it takes on one, or on two that sleep.
    """
    torch.set_num_threads(1)  # fixtures of modules come before those of tests
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        yield


@pytest.fixture(scope="session", autouse=True)
def _default_signals() -> None:
    """Commands under test inherit what the shell ignores: SIGINT in the background, SIGHUP under nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _imports_of_ranks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ranks are forked off a process that has imported what most of them need, not only torch: a second less each."""
    modules = [*local_ranks.PRELOADED, *IMPORTS_OF_RANKS]
    if any("diffusers_in_ranks" in getattr(item, "fixturenames", ()) for item in request.session.items):
        modules.append("diffusers.pipelines.pipeline_utils")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_ranks, "PRELOADED", modules)
        yield


@pytest.fixture(scope="session")
def diffusers_in_ranks() -> None:
    """For tests whose ranks import diffusers: then it is imported once for all of them, which takes seconds."""


@pytest.fixture(scope="session")
def tiny_t2v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny text-to-video checkpoint; do not write into it."""
    from tests.support.tiny_checkpoint import write_tiny_checkpoint  # imports diffusers, which takes seconds

    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny-t2v")


@pytest.fixture(scope="session")
def tiny_stream(tiny_t2v: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny checkpoint that makes its video two latent frames at a time; do not write into it."""
    from tests.support.tiny_stream import write_tiny_stream

    return write_tiny_stream(tiny_t2v, tmp_path_factory.mktemp("streams") / "tiny-stream")


@pytest.fixture(scope="session")
def tiny_i2v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny image-to-video checkpoint; do not write into it."""
    from tests.support.tiny_checkpoint import write_tiny_checkpoint

    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny-i2v", task="i2v", shards=2)
