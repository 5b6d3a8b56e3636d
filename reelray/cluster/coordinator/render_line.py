"""Renders that wait in the store, as the coordinator hears of them."""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable

from reelray.cluster.coordinator.coordinator import Coordinator
from reelray.cluster.coordinator.costs import CostTable
from reelray.cluster.coordinator.messages import Clip, EngineOffer, Wish
from reelray.cluster.renders.spec import RenderSpec, queue_of
from reelray.cluster.renders.unit_record import UnitRecord
from reelray.cluster.store.job import Job
from reelray.cluster.store.names import JobRef
from reelray.cluster.store.open import Store
from reelray.proto.errors import InputError, ReelrayError, ResourceError, StoreError, UnknownJobError
from reelray.proto.request import RequestId
from reelray.scheduler.fleet.ticket import Service

LOG = logging.getLogger("reelray.coordinator")
LOOK_S = 0.5
"""So often the store is looked at; who submits says so besides."""
PAUSE_S = 0.1
"""Between two looks: many that are submitted at once are looked at together."""
MOST_KNOWN = 2000
"""Of one model, those of the highest priority and longest wait; others are looked at when these are fewer."""
AT_ONCE = 64
LEAST_LEFT = 0.01


class RenderLine:
    """Keeps a coordinator informed of the store's renders.

    Args:
        store: Holds them.
        costs: Knows how many steps a clip has.
    """

    def __init__(self, store: Store, costs: CostTable) -> None:
        self._store, self._costs = store, costs
        self._asked = asyncio.Event()

    def look_soon(self) -> None:
        """Something may have changed."""
        self._asked.set()

    async def run(self, coordinator: Coordinator) -> None:
        """Look again and again, until cancelled; a store that is away is asked again."""
        while True:
            self._asked.clear()
            try:
                await self.look(coordinator)
            except (StoreError, ResourceError) as error:
                LOG.warning("renders cannot be looked at now: %s", error.message)
            except Exception:  # nobody else would look for renders as long as this one leads
                LOG.exception("renders cannot be looked at now")
            await asyncio.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._asked.wait()

    async def look(self, coordinator: Coordinator) -> None:
        """Tell the coordinator which renders wait, of models that have engines.

        Raises:
            StoreError: The store does not answer.
        """
        await self._store.leases.sweep()  # leases and pauses that are over put renders back
        waiting = dict[RequestId, EngineOffer]()
        known = coordinator.renders  # before the store is read: what comes meanwhile is not taken for gone
        for offer in {one.model: one for one in coordinator.engines}.values():
            key = self._store.connection.key("ready", queue_of(offer.model))
            rows = await self._store.connection.command("ZRANGE", key, 0, MOST_KNOWN - 1)
            waiting |= {RequestId(row.decode()): offer for row in rows}
        coordinator.forget_renders(known - waiting.keys())
        fresh = [name for name in waiting if name not in known]
        for first in range(0, len(fresh), AT_ONCE):
            coordinator.know_renders(await self._wishes(fresh[first : first + AT_ONCE], waiting))

    async def _wishes(self, names: Collection[RequestId], offers: dict[RequestId, EngineOffer]) -> Iterable[Wish]:
        seconds, microseconds = await self._store.connection.command("TIME")
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000
        found = await asyncio.gather(*(self._wish(name, offers[name], now_ms) for name in names))
        return [wish for wish in found if wish is not None]

    async def _wish(self, name: RequestId, offer: EngineOffer, now_ms: int) -> Wish | None:
        try:
            job = await self._store.jobs.get(JobRef.parse(name.encode()))
        except UnknownJobError:
            return None
        except (StoreError, ResourceError):
            raise
        except Exception:  # one that cannot be read keeps no other from being made
            LOG.exception("render %s cannot be read", name)
            return None
        clip = read_clip(job)
        return Wish(
            request_id=name,
            model=offer.model,
            clip=clip,
            tenant=job.ref.tenant,
            service=Service.BATCH,
            priority=job.priority,
            within_s=_within_s(job, now_ms),
            waited_s=max(0.0, (now_ms - job.created_ms) / 1000),
            left=1.0 if clip is None or not job.fence else await self._left(job, offer, clip),
        )

    async def _left(self, job: Job, offer: EngineOffer, clip: Clip) -> float:
        commits = await self._store.ledger.commits(job.ref)
        try:
            steps = UnitRecord.from_json(commits[-1].record).steps if commits else 0
            return max(LEAST_LEFT, 1.0 - steps / self._costs.steps(offer, clip))
        except (ReelrayError, ValueError):
            return 1.0


def _within_s(job: Job, now_ms: int) -> float | None:
    """Until its deadline; None without one, or where it is late anyway."""
    if job.deadline_ms is None or job.deadline_ms <= now_ms:
        return None
    return (job.deadline_ms - now_ms) / 1000


def read_clip(job: Job) -> Clip | None:
    """What of a job decides its cost; None where this build cannot read it."""
    try:
        request = RenderSpec.from_json(job.spec).request
    except InputError:
        return None
    return Clip(width=request.width, height=request.height, frames=request.frames, recipe=request.recipe)
