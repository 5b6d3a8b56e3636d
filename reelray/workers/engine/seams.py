"""What an engine is given: the checkpoint, the decisions, and the way to its ranks."""

from collections.abc import Collection
from typing import Protocol, runtime_checkable

from reelray.proto.model_facts import ModelFacts
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.residency import Networks, WeightShare
from reelray.proto.session import Fork, Forked, Order, Standing
from reelray.proto.snapshot import Snapshot, SnapshotKind
from reelray.proto.step_plan import StepOutcome, StepPlan, StepReport
from reelray.workers.models.api import VideoModel


class ModelLoader(Protocol):
    """Opens a checkpoint in the process that will run it."""

    def __call__(self) -> VideoModel:
        """Open it.

        Raises:
            CheckpointError: It is not usable.
            ResourceError: It does not fit the device.
        """
        ...


@runtime_checkable
class SharingLoader(ModelLoader, Protocol):
    """A loader that can be told which share of the weights its process keeps.

    Attributes:
        shares: Whether the weights are sharded.
    """

    @property
    def shares(self) -> bool:
        """See the class."""
        ...

    def for_share(self, share: WeightShare) -> ModelLoader:
        """The loader of one of the ranks that hold the same layers."""
        ...


@runtime_checkable
class PartLoader(ModelLoader, Protocol):
    """A loader that can leave out the networks that its process has no use for."""

    def for_networks(self, networks: Networks) -> ModelLoader:
        """The loader of a rank that does not do everything."""
        ...


class StepFormer(Protocol):
    """The engine core of the scheduler, seen from below; see `reelray/scheduler/engine_core.py`."""

    def submit(self, request: RenderRequest, facts: ModelFacts, snapshot: Snapshot | None = None) -> None:
        """Queue a request, or what goes on from a snapshot of it."""
        ...

    def cancel(self, request_id: RequestId) -> bool:
        """Stop a request at the next step; returns whether it was still going on."""
        ...

    def tell(self, request_id: RequestId, order: Order) -> Standing:
        """Change a request while it runs."""
        ...

    def snapshot(self, request_id: RequestId, kind: SnapshotKind) -> None:
        """Have the outcome of a step to come bring a snapshot of a request."""
        ...

    def fork(self, request_id: RequestId, other: RequestId) -> None:
        """Have the outcome of a step to come say what came of a fork of a request."""
        ...

    def go_back(self, request_id: RequestId, fork: Fork) -> Forked:
        """Queue another request that goes on at the beginning of a chunk of one that is here."""
        ...

    def acknowledge(self, request_id: RequestId, frames: int) -> None:
        """Give back decode credit."""
        ...

    def next_step(self, now_s: float) -> StepPlan | None:
        """Form the next step, or None while one is in flight or nothing can be done; asked until there is none."""
        ...

    def rewind(self, generation: int, lost: Collection[int] = ()) -> tuple[RequestId, ...]:
        """Go on with a new gang from every request's last commit; returns the requests that are given up."""
        ...

    def report(self, report: StepReport) -> StepOutcome:
        """Take in what came of a step in flight."""
        ...


class Channel(Protocol):
    """The way from the leader to its ranks; a `Rank` in the same process is one."""

    def issue(self, plan: StepPlan) -> None:
        """Have the ranks of its crew, or all, carry out a plan; returns at once.

        Raises:
            RankLostError: A rank died; `rebuild` may help.
        """
        ...

    def collect(self) -> StepReport | None:
        """The report of a plan that all its ranks are done with; None when there is none after a moment.

        The data of its frames may be views, which hold until the next report but one; see `keep_frames`.

        Raises:
            RankLostError: A rank died or stands still; `rebuild` may help.
            EngineError: A rank refused the plan.
        """
        ...

    def check(self) -> None:
        """Look after the ranks while no step is in flight; returns at once.

        Raises:
            RankLostError: A rank died or stands still; `rebuild` may help.
            EngineError: Ranks are lost again and again; the engine is lost.
        """
        ...

    def rebuild(self) -> int:
        """Put the ranks together again after one was lost; returns the new generation.

        Raises:
            EngineError: It did not work; the engine is lost.
        """
        ...

    def close(self) -> None:
        """Let the ranks go."""
        ...
