"""Runs a function in several ranks on this machine: for tests, benchmarks and debugging.

Every rank is a process of its own in one process group on the loopback interface: gloo on CPUs, NCCL on CUDA devices,
where rank n takes device n. Ranks on CPUs are forked off a process that has imported torch and done nothing else, so
that each is there in a tenth of a second; CUDA wants fresh ones.
"""

import multiprocessing
import os
import pickle
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, NoReturn

import psutil
import torch
from torch import distributed as dist

from reelray.proto.errors import EngineError

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
RankProcess = SpawnProcess | ForkServerProcess
GRACE_S = 10.0
"""How long a rank that has given its result may take to end."""
PRELOADED = ("__main__", __name__)
"""What is imported once for all ranks on CPUs; every process that begins imports the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalRank:
    """What the function of a rank is given first.

    Args:
        rank: Number of this rank.
        ranks: Ranks in the world.
        device: Device of this rank.
    """

    rank: int
    ranks: int
    device: torch.device


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    rank: LocalRank
    store: str
    deadline_s: float
    threads: int | None
    call: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    at_s: float
    message: str
    trace: str
    error: BaseException | None = None


def run_ranks(
    function: Callable[..., Any],
    *arguments: Any,
    ranks: int,
    device: str = "cpu",
    deadline_s: float = 120.0,
    threads: int | None = 1,
) -> list[Any]:
    """Call `function(LocalRank, *arguments)` in every rank and return the results in the order of the ranks.

    Args:
        function: Picklable, as a function of an importable module is; so must be arguments and results.
        arguments: What it gets after its `LocalRank`.
        ranks: Processes to start.
        device: ``cpu`` or ``cuda``.
        deadline_s: After how long everything is ended; also how long a collective may wait.
        threads: Threads of torch in each rank; None leaves torch's choice.

    Raises:
        EngineError: A rank failed or died, or the deadline passed. The message names the first rank that failed; its
            error is the cause.
    """
    if device not in BACKENDS:
        raise ValueError(f"device is {device!r}; allowed are {', '.join(BACKENDS)}")
    context = choose_context(device)
    call = pickle.dumps((function, arguments))
    processes: list[RankProcess] = []
    pipes: list[Connection] = []
    with tempfile.TemporaryDirectory(prefix="reelray-ranks-") as folder:
        try:
            for number in range(ranks):
                place = torch.device(device, number) if device == "cuda" else torch.device(device)
                job = _Job(
                    rank=LocalRank(rank=number, ranks=ranks, device=place),
                    store=(Path(folder) / "store").as_uri(),
                    deadline_s=deadline_s,
                    threads=threads,
                    call=call,
                )
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_run_rank, args=(job, sender), name=f"rank {number}", daemon=True)
                process.start()
                sender.close()  # so that the death of the rank ends the pipe
                processes.append(process)
                pipes.append(receiver)
            return _collect(processes, pipes, deadline_s)
        finally:
            _end(processes)
            for pipe in pipes:
                pipe.close()


def choose_context(device: str) -> SpawnContext | ForkServerContext:
    """How processes are started that compute on such devices."""
    if device == "cuda":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    return context


def _collect(processes: list[RankProcess], pipes: list[Connection], deadline_s: float) -> list[Any]:
    deadline = time.monotonic() + deadline_s
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        arrived = _wait(processes, pipes, results, max(0.0, deadline - time.monotonic()))
        if not arrived:
            names = ", ".join(str(number) for number in range(len(pipes)) if number not in results)
            raise EngineError(f"{deadline_s:g} s have passed without a result of rank {names}")
        results |= arrived
        if any(isinstance(result, _Failure) for result in arrived.values()):
            # A failing rank takes its peers along, and theirs may have been read first.
            _raise_first(results | _wait(processes, pipes, results, 0.0))
    for process in processes:
        process.join(GRACE_S)
    return [results[number] for number in range(len(pipes))]


def _wait(
    processes: list[RankProcess], pipes: list[Connection], results: dict[int, Any], timeout_s: float
) -> dict[int, Any]:
    """Results that have come since, by rank."""
    ready = wait([pipe for number, pipe in enumerate(pipes) if number not in results], timeout=timeout_s)
    return {number: _receive(processes[number], pipe) for number, pipe in enumerate(pipes) if pipe in ready}


def _receive(process: RankProcess, pipe: Connection) -> Any:
    try:
        return pickle.loads(pipe.recv_bytes())  # noqa: S301  from a process of ours
    except EOFError:
        process.join(GRACE_S)
        # It said nothing before it died, so whatever its peers report came after.
        return _Failure(at_s=0.0, message=f"it died with exit code {process.exitcode}", trace="")


def _raise_first(results: dict[int, Any]) -> NoReturn:
    failures = [(found.at_s, number, found) for number, found in results.items() if isinstance(found, _Failure)]
    _, number, first = min(failures, key=lambda failure: failure[0])
    error = EngineError(f"rank {number} failed: {first.message}", ids={"rank": str(number)})
    error.add_note(first.trace)
    raise error from first.error


def _end(processes: list[RankProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()


def _run_rank(job: _Job, sender: Connection) -> None:
    try:
        answer: Any = _call(job)
    except BaseException as error:  # noqa: BLE001  the process boundary
        trace = traceback.format_exc()
        message = f"{type(error).__name__}: {error}"
        failure = _Failure(at_s=time.monotonic(), message=message, trace=trace, error=error)
        try:
            sender.send_bytes(pickle.dumps(failure))
        except Exception:  # noqa: BLE001  not every error can be pickled; its words can
            sender.send_bytes(pickle.dumps(_Failure(at_s=failure.at_s, message=message, trace=trace)))
        os._exit(1)  # peers may be waiting in a collective for ever: no farewell
    sender.send_bytes(pickle.dumps(answer))
    sender.close()


def _call(job: _Job) -> Any:
    function, arguments = pickle.loads(job.call)  # noqa: S301  from our parent
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    device = job.rank.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ[variable] = loopback_interface()
    dist.init_process_group(
        BACKENDS[device.type],
        init_method=job.store,
        rank=job.rank.rank,
        world_size=job.rank.ranks,
        timeout=timedelta(seconds=job.deadline_s),
    )
    result = function(job.rank, *arguments)
    if dist.is_initialized():  # an aborted mesh has left the group
        dist.destroy_process_group()
    return result


def loopback_interface() -> str:
    """Name of the loopback interface: gloo would bind to the one that the host's name resolves to."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.family == socket.AF_INET and address.address == "127.0.0.1" for address in addresses):
            return name
    raise EngineError("this machine has no loopback interface with 127.0.0.1")
