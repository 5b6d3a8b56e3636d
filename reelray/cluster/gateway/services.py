"""The services of `reelray.v1` over the models of one server."""

import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

import reelray
from reelray.cluster.assets.sources import Sources
from reelray.cluster.coordinator.desk import Desk
from reelray.cluster.coordinator.messages import Clip, Wish
from reelray.cluster.gateway.boundary import Context, or_status, send
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.conversations import Conversations, ConverseLimits
from reelray.cluster.gateway.converse_call import converse
from reelray.cluster.gateway.event_pump import EventPump
from reelray.cluster.gateway.live_quotas import LiveQuotas
from reelray.cluster.gateway.making import Making
from reelray.cluster.gateway.option_check import check_options
from reelray.cluster.gateway.placed_relay import PlacedRelay
from reelray.cluster.gateway.served_models import ServedModel, ServedModels
from reelray.cluster.gateway.session_place import Urgency, read_urgency
from reelray.cluster.gateway.tenant_quotas import TenantQuotas
from reelray.cluster.gateway.video_answers import planned as plan_of
from reelray.cluster.gateway.video_answers import queued
from reelray.cluster.gateway.video_reading import read_video
from reelray.cluster.render import RenderJob, plan_job
from reelray.proto.errors import EngineError, ReelrayError, ResourceError
from reelray.proto.v1 import cluster_pb2, cluster_pb2_grpc, converse_pb2, videos_pb2, videos_pb2_grpc
from reelray.proto.v1 import video_spec_pb2 as wire


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A request that fits.

    Args:
        model: What makes it.
        making: Its video.
        wish: For a place on an engine.
        frames: That it has.
        first: What the client is told at first.
        ids: Go along with its errors.
    """

    model: ServedModel
    making: Making
    wish: Wish
    frames: int
    first: videos_pb2.GenerateEvent
    ids: dict[str, str]

    def listen(self, error: ReelrayError) -> None:
        """After an error that an engine may not survive: look after it."""
        if isinstance(error, EngineError | ResourceError):
            name = f"look after {self.model.entry.name}"
            threading.Thread(target=self.model.look_after, name=name, daemon=True).start()


class Videos(videos_pb2_grpc.VideosServicer):
    """Makes videos while the client waits.

    Args:
        models: What is served.
        callers: Who may call.
        sources: Where conditions are found that do not come with the request.
        desk: Gives places on engines.
        limits: Of sessions.
        live: What tenants may ask for; everything if it is left out.
    """

    def __init__(
        self,
        models: ServedModels,
        callers: Callers,
        sources: Sources,
        desk: Desk,
        *,
        limits: ConverseLimits | None = None,
        live: LiveQuotas | None = None,
    ) -> None:
        self._models, self._callers, self._sources, self._desk = models, callers, sources, desk
        self._live = live or LiveQuotas(TenantQuotas(), None)
        self.conversations = Conversations(models, sources, limits or ConverseLimits(), desk, self._live)

    async def Generate(self, request: videos_pb2.GenerateRequest, context: Context) -> None:  # noqa: N802
        """See `videos.proto`."""
        planned = await or_status(context, lambda: self._plan(request, context))
        with planned.model.counted():
            await or_status(context, lambda: self._make(planned, context), planned.ids)

    async def _make(self, planned: Planned, context: Context) -> None:
        wish = planned.wish
        admission = await self._live.enter(wish.tenant, wish.request_id, planned.frames)
        charged: int | None = 0  # until it begins
        try:
            async with self._desk.ask(wish) as visit:
                relay = PlacedRelay(visit, self._desk, lambda event: send(context, event))
                await relay.pass_on(planned.first)
                async for waits in visit.standings():
                    await relay.pass_on(queued(waits))
                charged = None
                await self._relay(planned, relay)
        except BaseException as error:
            if not self._live.was_wanted(error):
                charged = 0
            raise
        finally:
            admission.leave(charged)

    async def _relay(self, planned: Planned, relay: PlacedRelay) -> None:
        making = planned.making
        pump = EventPump(making, leave=making.leave, name=planned.ids["request"], ahead=1)
        try:
            async with aclosing(pump.items()) as events:
                async for event in events:
                    await relay.pass_on(event)
        except ReelrayError as error:
            planned.listen(error)
            raise
        relay.finish()

    async def Converse(  # noqa: N802  named by the service
        self, requests: AsyncIterator[converse_pb2.ConverseRequest], context: Context
    ) -> None:
        """See `videos.proto`."""
        await converse(self.conversations, self._callers, requests, context)

    async def _plan(self, request: videos_pb2.GenerateRequest, context: Context) -> Planned:
        options = request.options
        ids = check_options(options, ("deadline", "priority"), "Videos.Generate")
        tenant = self._callers.tenant_of(context, options.tenant)
        urgency = read_urgency(options, tenant)
        entry = self._models.find(request.video.model).entry
        return await self._sources.plan(request.video, entry, tenant, partial(self._begin, request.media, ids, urgency))

    def _begin(self, media: wire.Media, ids: dict[str, str], urgency: Urgency, video: wire.VideoSpec) -> Planned:
        model, job = plan_request(self._models, video)
        wanted = job.request
        plan = plan_of(wanted, job.model.name, model.description.digest, job.fps)
        first = videos_pb2.GenerateEvent(accepted={"request_id": wanted.request_id, "plan": plan})
        making = Making(model.engine, job, media)
        wish = Wish(
            request_id=wanted.request_id,
            model=model.entry.name,
            clip=Clip(width=wanted.width, height=wanted.height, frames=wanted.frames, recipe=wanted.recipe),
            tenant=urgency.tenant,
            priority=urgency.priority,
            within_s=urgency.within_s,
        )
        ids = {"request": wanted.request_id, **ids}
        return Planned(model=model, making=making, wish=wish, frames=wanted.frames, first=first, ids=ids)


def plan_request(
    models: ServedModels, video: wire.VideoSpec, *, seed: int | None = None
) -> tuple[ServedModel, RenderJob]:
    """Check a wish and fill in what it leaves open.

    Args:
        models: What is served.
        video: From the wire.
        seed: Taken where the wish names none; None draws one.

    Raises:
        InputError: It cannot be made here; the message says what would be right.
    """
    model = models.find(video.model)
    options = read_video(video, model.entry)
    if options.seed is None:
        options = replace(options, seed=seed)
    return model, plan_job(options, model.entry)


class Cluster(cluster_pb2_grpc.ClusterServicer):
    """Tells what is here.

    Args:
        models: What is served.
        desk: Knows how much there is to do.
    """

    def __init__(self, models: ServedModels, desk: Desk) -> None:
        self._models, self._desk = models, desk

    async def Describe(  # noqa: N802  named by the service
        self, _request: cluster_pb2.DescribeRequest, _context: Context
    ) -> cluster_pb2.DescribeResponse:
        """See `cluster.proto`."""
        return cluster_pb2.DescribeResponse(
            version=reelray.__version__, engines=[self._describe(model) for model in self._models]
        )

    def _describe(self, model: ServedModel) -> cluster_pb2.Engine:
        engine, load = model.description, self._desk.loads.get(model.entry.name)
        return cluster_pb2.Engine(
            model=model.entry.name,
            model_digest=engine.digest,
            device=engine.device,
            dtype=engine.dtype,
            layout=str(engine.layout),
            ranks=engine.layout.ranks + engine.decode_ranks,
            requests=model.running,
            ready=model.is_ready,
            waiting=0 if load is None else load.waiting,
            queue_seconds=None if load is None else load.queue_s,
            busy=None if load is None else load.busy,
        )
