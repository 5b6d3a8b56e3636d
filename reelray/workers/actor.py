"""The engine as Ray actors: a leader that clients call, and for a gang one actor per rank.

Clients pull: `take` waits for events, hands over what there is and acknowledges what it handed over before. A pull
costs one actor call per batch (3.5 ms per 1.2 MB frame in batches of four, against 3.2 ms through a Ray streaming
generator, and 0.5 against 0.6 ms for small ones), leaves nothing running that must be cancelled, and whoever stops
pulling stops the decoder. Errors come back as values, so that no Ray traceback is wrapped around them. torch is
imported in the actors, never in the client.

Ray places, watches and ends the ranks of a gang; plans and tensors do not pass through it.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import ray
from ray.util.placement_group import (
    get_current_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from reelray.proto.engine_description import EngineDescription
from reelray.proto.errors import EngineError, ReelrayError
from reelray.proto.layout import Layout
from reelray.proto.placement import Lending
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.session import Fork, Forked, Order, Standing
from reelray.proto.snapshot import Snapshot, SnapshotKind
from reelray.workers.engine.client_watch import ClientWatch

if TYPE_CHECKING:
    from reelray.proto.events import Event
    from reelray.workers.engine.gang_wire import Invitation
    from reelray.workers.engine.host import EngineHost

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
CALLS = 16  # orders that may wait at once
TAKE = "take"
TAKES = 256  # requests whose events may be waited for at once; apart, so that no order waits behind them
RANK_CPUS = 0.01  # what a rank on a CPU books; it uses the cores that the leader assigns to it
ONE_MACHINE = "a gang lies on one machine, its leader's: give it fewer ranks, or start it where the GPUs are"
PLACE_S = 60.0
END_S = 10.0
LAST_WORDS_S = 0.5


class EngineActor:
    """Owns one `EngineHost`."""

    def __init__(self) -> None:
        self._host: EngineHost | None = None
        self._launcher: RayLauncher | None = None
        self._clients = ClientWatch()

    def load(
        self,
        open_model: Any,
        core: Any,
        layouts: Sequence[Layout] = (Layout(),),
        *,
        decode_ranks: int = 0,
        lending: Lending | None = None,
        on_gpus: bool = False,
    ) -> EngineDescription | ReelrayError:
        """Open the checkpoint and start the engine.

        Args:
            open_model: A `ModelLoader`.
            core: A `StepFormer`.
            layouts: How ranks share their videos, at the start and when they are regrouped; more than one rank are
                actors of their own, which this one leads.
            decode_ranks: Further ranks that do nothing but decode.
            lending: When those help to denoise.
            on_gpus: Each of those ranks needs a GPU.
        """
        start = partial(
            self._start_gang,
            open_model,
            tuple(layouts),
            decode_ranks=decode_ranks,
            lending=lending,
            on_gpus=on_gpus,
        )
        alone = layouts[0].ranks + decode_ranks == 1
        return _value_or_error(lambda: self._load(open_model, core, None if alone else start))

    def submit(
        self, request: RenderRequest, snapshot: Snapshot | None = None, client: str | None = None
    ) -> ReelrayError | None:
        """See `EngineHost.submit`; a client with a name has to be heard again and again, see `hear`."""
        error = _value_or_error(lambda: self._submit(request, snapshot))
        if client is not None and error is None:
            self._clients.begin(client, request.request_id)
        return error

    def hear(self, client: str) -> bool:
        """See `ClientWatch.hear`."""
        return self._clients.hear(client)

    def bye(self, client: str) -> None:
        """See `ClientWatch.bye`."""
        self._clients.bye(client)

    def retire(self, open_s: float) -> None:
        """See `ClientWatch.retire`."""
        self._clients.retire(open_s)

    def is_needed(self, patience_s: float) -> bool | ReelrayError:
        """Whether requests run, or may still come from clients that were heard not longer ago than that."""
        left = self.end_abandoned(patience_s)
        return left if isinstance(left, ReelrayError) else left > 0 or self._clients.may_ask(patience_s)

    def end_abandoned(self, patience_s: float) -> int | ReelrayError:
        """Cancel requests whose clients were not heard for so long; returns how many requests are left."""
        return _value_or_error(lambda: self._end_abandoned(patience_s))

    def take(self, request_id: RequestId, timeout_s: float) -> "list[Event | ReelrayError] | ReelrayError":
        """See `EngineHost.take`."""
        return _value_or_error(lambda: self._running().take(request_id, timeout_s))

    def cancel(self, request_id: RequestId) -> bool | ReelrayError:
        """See `EngineHost.cancel`."""
        return _value_or_error(lambda: self._running().cancel(request_id))

    def tell(self, request_id: RequestId, order: Order) -> Standing | ReelrayError:
        """See `EngineHost.tell`."""
        return _value_or_error(lambda: self._running().tell(request_id, order))

    def snapshot(self, request_id: RequestId, kind: SnapshotKind) -> Snapshot | ReelrayError:
        """See `EngineHost.snapshot`."""
        return _value_or_error(lambda: self._running().snapshot(request_id, kind))

    def fork(self, request_id: RequestId, fork: Fork, client: str | None = None) -> Forked | ReelrayError:
        """See `EngineHost.fork`; the other stream is the client's as one that it submits."""
        forked = _value_or_error(lambda: self._running().fork(request_id, fork))
        if client is not None and isinstance(forked, Forked):
            self._clients.begin(client, fork.request_id)
        return forked

    def close(self) -> None:
        """Stop after the step in flight, end the ranks and give back their places."""
        if self._host is not None:
            self._host.close()
        if self._launcher is not None:
            self._launcher.close()

    def _submit(self, request: RenderRequest, snapshot: Snapshot | None) -> None:
        self._clients.check_open()
        self._running().submit(request, snapshot)

    def _end_abandoned(self, patience_s: float) -> int:
        host = self._running()
        for request_id in self._clients.abandoned(host.requests, patience_s):
            _LOG.warning("request %s is cancelled: its client is gone", request_id)
            host.cancel(request_id)
        return len(host.requests)

    def _load(self, open_model: Any, core: Any, start_gang: Callable[[], Any] | None) -> EngineDescription:
        from reelray.workers.engine.host import EngineHost  # noqa: PLC0415  keeps torch out of the client

        if start_gang is None:
            self._host = EngineHost.open(open_model, core)
        else:
            gang = start_gang()
            self._host = EngineHost(gang, gang.description, core)
        return self._host.description

    def _start_gang(
        self, open_model: Any, layouts: tuple[Layout, ...], *, decode_ranks: int, lending: Lending | None, on_gpus: bool
    ) -> Any:
        from reelray.workers.engine.cores import share_cores  # noqa: PLC0415
        from reelray.workers.engine.gang import Gang, GangSpec  # noqa: PLC0415  pulls in torch

        layout, *others = layouts
        ranks = layout.ranks + decode_ranks
        self._launcher = RayLauncher(ranks, on_gpus=on_gpus, group=get_current_placement_group())
        spec = GangSpec(
            load=open_model,
            layout=layout,
            others=tuple(others),
            decode_ranks=decode_ranks,
            lending=lending,
            threads=share_cores(ranks),
        )
        gang = Gang(self._launcher, spec)
        try:
            gang.start()
        except BaseException:
            gang.close()
            self._launcher.close()
            raise
        return gang

    def _running(self) -> "EngineHost":
        if self._host is None:
            raise EngineError("the engine holds no checkpoint")
        return self._host


class RankActor:
    """The process of one rank of a gang."""

    def pid(self) -> int:
        """Number of the process."""
        return os.getpid()

    def serve(self, invitation: "Invitation") -> None:
        """Be a rank until the leader is gone; see `gang_rank.serve`."""
        from reelray.workers.engine.gang_rank import serve  # noqa: PLC0415  pulls in torch

        serve(invitation)


class RankHandle:
    """Implements `RankProcess` on an actor of this machine.

    Args:
        actor: Ray handle of a `RankActor`.
        invitation: What it is to serve.
    """

    def __init__(self, actor: Any, invitation: "Invitation") -> None:
        self._actor = actor
        self._pid = actor.pid.remote()
        self._served = actor.serve.remote(invitation)
        self._process: psutil.Process | None = None

    def is_alive(self) -> bool:
        """See `RankProcess`; a rank that has left its gang counts as ended."""
        self._find_process()
        return not _is_ready(self._served)

    def kill(self) -> None:
        """See `RankProcess`.

        Raises:
            EngineError: The process is still there.
        """
        self._find_process()
        ray.kill(self._actor)
        _is_ready(self._served, END_S)
        if self._process is not None:
            # Ray gives a process seconds to end by itself, which one that is stopped only uses up.
            with suppress(psutil.NoSuchProcess):
                self._process.kill()
            _wait_gone(self._process)

    def last_words(self) -> str:
        """See `RankProcess`."""
        try:
            ray.get(self._served, timeout=LAST_WORDS_S)
        except ray.exceptions.GetTimeoutError:
            return "its connection closed"
        except ray.exceptions.RayError as error:
            return _first_words(error)
        return "it left"

    def _find_process(self) -> None:
        if self._process is None and _is_ready(self._pid):
            with suppress(psutil.NoSuchProcess, ray.exceptions.RayError):
                self._process = psutil.Process(ray.get(self._pid))


class RayLauncher:
    """Implements `RankLauncher` with actors in one placement group on one machine, the leader's.

    Every rank has a bundle of its own, which its successors take over.

    Args:
        ranks: How many there will be at once.
        on_gpus: Each needs a GPU.
        place_s: Longest wait for the placement group.
        group: The placement group in which the leader lies already, whose bundles after the first are for the ranks;
            it stays when this is closed. None makes one.

    Raises:
        EngineError: The cluster has no room; the message says what is missing.
    """

    def __init__(self, ranks: int, *, on_gpus: bool, place_s: float = PLACE_S, group: Any = None) -> None:
        from reelray.workers.parallel.local_ranks import loopback_interface  # noqa: PLC0415  pulls in torch

        self.host = "127.0.0.1"
        self.interface: str | None = loopback_interface()
        self._resource, share = ("GPU", 1.0) if on_gpus else ("CPU", RANK_CPUS)
        self._options = {"num_cpus": 0, "num_gpus": share} if on_gpus else {"num_cpus": share, "num_gpus": 0}
        self._is_own, self._first = group is None, 0 if group is None else 1
        self._group = group or placement_group([{self._resource: share}] * ranks, strategy="STRICT_PACK")
        if not self._group.wait(place_s):
            missing = _what_is_missing(ranks, self._resource)
            self.close()
            raise EngineError(f"{missing} (waited {place_s:g} s)")
        if _nodes_of(self._group) != {_own_node()}:
            self.close()
            raise EngineError(f"the ranks were placed on another machine than their leader; {ONE_MACHINE}")

    def launch(self, invitation: "Invitation") -> RankHandle:
        """See `RankLauncher`."""
        bundle = self._first + invitation.rank
        place = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle)
        actor = ray.remote(RankActor).options(max_restarts=0, scheduling_strategy=place, **self._options).remote()
        return RankHandle(actor, invitation)

    def close(self) -> None:
        """Give back the places, which ends ranks that are still there; places of others stay theirs."""
        if self._is_own:
            remove_placement_group(self._group)


def start_engine_actor(*, gpus: float = 0, group: Any = None) -> Any:
    """Start an engine actor on the connected cluster; a lost one is not restarted.

    Args:
        gpus: GPUs it needs in its own process; the ranks of a gang bring theirs.
        group: Placement group whose first bundle it lies in; None lets Ray choose.

    Returns:
        The Ray handle of an `EngineActor`.
    """
    remote = ray.remote(concurrency_groups={TAKE: TAKES})(EngineActor)
    place = "DEFAULT" if group is None else PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
    options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0, "max_concurrency": CALLS}
    return remote.options(scheduling_strategy=place, **options).remote()


def _value_or_error(action: Callable[[], T]) -> T | ReelrayError:
    try:
        return action()
    except ReelrayError as error:
        return type(error)(error.message, ids=error.ids)  # without its traceback
    except Exception as error:  # noqa: BLE001  the actor boundary
        _LOG.exception("the engine actor failed")
        return ReelrayError(f"the engine failed with {type(error).__name__}: {error}")


def _is_ready(reference: Any, timeout_s: float = 0.0) -> bool:
    return bool(ray.wait([reference], timeout=timeout_s)[0])


def _wait_gone(process: psutil.Process) -> None:
    """Wait until a process has ended; it may not be a child of this one, and its parent may not have read its end."""
    deadline = time.monotonic() + END_S
    with suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                raise EngineError(f"a rank, process {process.pid}, does not end")
            time.sleep(0.01)


def _what_is_missing(ranks: int, resource: str) -> str:
    has, free = (amounts.get(resource, 0.0) for amounts in (ray.cluster_resources(), ray.available_resources()))
    if resource != "GPU":
        return (
            f"room for {ranks} ranks was asked for on one machine; the cluster has {has:g} CPUs, {free:g} of them free"
        )
    if has < ranks:
        return f"{ranks} GPUs were asked for, the cluster has {has:g}"
    return f"{ranks} GPUs were asked for on one machine; the cluster has {has:g}, {free:g} of them free; {ONE_MACHINE}"


def _nodes_of(group: Any) -> set[str]:
    return set(placement_group_table(group)["bundles_to_node_id"].values())


def _own_node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _first_words(error: Exception) -> str:
    """What matters of Ray's many lines on the end of an actor."""
    found = re.search(r"[Ee]xit detail: ([^.]+)", str(error))
    return f"its process died: {found[1].strip()}" if found else f"its process died ({type(error).__name__})"
