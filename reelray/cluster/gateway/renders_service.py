"""`reelray.v1.Renders` over the store and the models of one server."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial

from reelray.cluster.assets.sources import Sources
from reelray.cluster.coordinator.desk import Desk
from reelray.cluster.gateway.archive import Archive, in_plain_words
from reelray.cluster.gateway.boundary import Context, or_status, send
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.option_check import check_options, seconds_until
from reelray.cluster.gateway.render_answers import FROM_STATES, MEDIA, queued_render, render_of
from reelray.cluster.gateway.render_download import ByteRange, download
from reelray.cluster.gateway.render_promise import with_promise
from reelray.cluster.gateway.render_watching import watch
from reelray.cluster.gateway.served_models import ServedModels
from reelray.cluster.gateway.services import plan_request
from reelray.cluster.gateway.tenant_quotas import TenantQuotas
from reelray.cluster.gateway.video_answers import planned as plan_of
from reelray.cluster.render import RenderJob
from reelray.cluster.renders.growing_media import find_media
from reelray.cluster.renders.spec import seed_for_key
from reelray.cluster.renders.submission import Submission, submit_render
from reelray.cluster.store.job import Job, JobState
from reelray.cluster.store.jobs import JobPage
from reelray.cluster.store.names import JobRef
from reelray.cluster.wire import LARGEST_MESSAGE
from reelray.proto.errors import InputError, ResourceError, UnknownJobError, UnsupportedError
from reelray.proto.v1 import renders_pb2, renders_pb2_grpc, request_options_pb2, video_spec_pb2

PAGE, LONGEST_PAGE = 50, 100
LARGEST_PAGE_BYTES = LARGEST_MESSAGE * 3 // 4
MOST_WAITING = 1000
"""Callers that watch or follow, each with a line to the store of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A wish that fits.

    Args:
        job: What is to be made.
        digest: Of the model.
        submission: Whose it is.
        ids: Go along with its errors.
    """

    job: RenderJob
    digest: str
    submission: Submission
    ids: dict[str, str]


class Renders(renders_pb2_grpc.RendersServicer):
    """Keeps renders.

    Args:
        models: What is served.
        archive: Where renders are kept.
        callers: Who may call.
        sources: Where conditions are found that do not come with the request.
        desk: Hears of new renders.
        quotas: Of tenants; none if they are left out.
    """

    def __init__(
        self,
        models: ServedModels,
        archive: Archive,
        callers: Callers,
        sources: Sources,
        *,
        desk: Desk,
        quotas: TenantQuotas | None = None,
    ) -> None:
        self._models, self._archive, self._callers = models, archive, callers
        self._quotas = quotas or TenantQuotas()
        self._sources, self._desk = sources, desk
        self._waiting = 0

    async def Submit(  # noqa: N802  named by the service
        self, request: renders_pb2.SubmitRenderRequest, context: Context
    ) -> renders_pb2.SubmitRenderResponse:
        """See `renders.proto`."""

        async def plan() -> Planned:
            if request.video.conditions:  # pictures take time
                tenant = self._callers.tenant_of(context, request.options.tenant)
                entry = self._models.find(request.video.model).entry
                plan = partial(self._plan, request, context)
                return await self._sources.plan(request.video, entry, tenant, plan)
            return self._plan(request, context, request.video)

        planned = await or_status(context, plan)
        return await or_status(context, lambda: self._submit(planned), planned.ids)

    async def Get(  # noqa: N802
        self, request: renders_pb2.GetRenderRequest, context: Context
    ) -> renders_pb2.Render:
        """See `renders.proto`."""

        async def get() -> renders_pb2.Render:
            ref = self._ref(context, request.tenant, request.id)
            with in_plain_words():
                return await self._render(ref)

        return await or_status(context, get)

    async def List(  # noqa: N802
        self, request: renders_pb2.ListRendersRequest, context: Context
    ) -> renders_pb2.ListRendersResponse:
        """See `renders.proto`."""
        return await or_status(context, lambda: self._list(request, context))

    async def Cancel(  # noqa: N802
        self, request: renders_pb2.CancelRenderRequest, context: Context
    ) -> renders_pb2.Render:
        """See `renders.proto`."""

        async def cancel() -> renders_pb2.Render:
            ref = self._ref(context, request.tenant, request.id)
            with in_plain_words():
                await self._archive.store.jobs.cancel(ref, "cancelled by its owner")
                return await self._render(ref)

        return await or_status(context, cancel)

    async def Watch(self, request: renders_pb2.WatchRenderRequest, context: Context) -> None:  # noqa: N802
        """See `renders.proto`."""

        async def run() -> None:
            ref = self._ref(context, request.tenant, request.id)
            with self._counted():
                await _relay(watch(self._archive, ref, request.after, self._desk.stands), context)

        await or_status(context, run)

    async def Download(self, request: renders_pb2.DownloadRenderRequest, context: Context) -> None:  # noqa: N802
        """See `renders.proto`."""

        async def run() -> None:
            ref = self._ref(context, request.tenant, request.id)
            end = request.offset + request.length if request.length else None
            wanted = ByteRange(begin=request.offset, end=end, follow=request.follow)
            with self._counted():
                await _relay(download(self._archive, ref, wanted), context)

        await or_status(context, run)

    def _plan(
        self, request: renders_pb2.SubmitRenderRequest, context: Context, video: video_spec_pb2.VideoSpec
    ) -> Planned:
        options = request.options
        ids = check_options(options, ("idempotency_key", "priority", "deadline"), "Renders.Submit")
        tenant = self._callers.tenant_of(context, options.tenant)
        if request.media not in {video_spec_pb2.MEDIA_UNSPECIFIED, *MEDIA.values()}:
            raise _unknown_media(request.media)
        key = options.idempotency_key or None
        seed = None if key is None else seed_for_key(tenant, key)
        model, job = plan_request(self._models, video, seed=seed)
        submission = Submission(
            tenant=tenant,
            key=key,
            priority=options.priority,
            limits=self._quotas.limits_of(tenant, frames=job.request.frames),
            retention_s=self._archive.rule.ttl_s,
            webhook=_checked_webhook(self._archive, request.webhook),
            deadline_ms=_deadline_ms(options),
        )
        return Planned(job=job, digest=model.description.digest, submission=submission, ids=ids)

    async def _submit(self, planned: Planned) -> renders_pb2.SubmitRenderResponse:
        archive = self._archive
        submission = await with_promise(self._desk, archive.store.jobs, planned.job, planned.submission)
        with in_plain_words():
            made = await submit_render(archive.store, archive.artifacts, planned.job, planned.digest, submission)
            if made.created_ms is None:
                return renders_pb2.SubmitRenderResponse(render=await self._render(made.ref), fresh=made.fresh)
        self._desk.look_for_renders()
        plan = plan_of(planned.job.request, planned.job.model.name, planned.digest, planned.job.fps)
        render = queued_render(made.ref, made.created_ms, submission, plan)
        return renders_pb2.SubmitRenderResponse(render=render, fresh=True)

    async def _render(self, ref: JobRef) -> renders_pb2.Render:
        media = await find_media(self._archive.store, ref)
        return self._told(media.job, media.size_bytes)

    def _told(self, job: Job, size_bytes: int | None = None) -> renders_pb2.Render:
        """How a render is, and why it waits where its model is not here."""
        render = render_of(job, size_bytes)
        if job.state is JobState.QUEUED and render.HasField("plan") and render.plan.model not in self._models:
            render.error = f"it waits for model '{render.plan.model}', which is not served here now"
        return render

    async def _list(self, request: renders_pb2.ListRendersRequest, context: Context) -> renders_pb2.ListRendersResponse:
        tenant = self._callers.tenant_of(context, request.tenant)
        if request.page_size > LONGEST_PAGE:
            raise InputError(f"page_size is {request.page_size}; allowed are 1 to {LONGEST_PAGE}")
        if request.state and request.state not in FROM_STATES:
            raise InputError(f"state is {request.state}; it must be one of {', '.join(renders_pb2.RenderState.keys())}")
        limit = request.page_size or PAGE
        while True:
            page = await self._page(request, tenant, limit)
            renders = [self._told(job) for job in page.jobs]
            fitting = _count_fitting(renders)
            if fitting == len(renders):
                return renders_pb2.ListRendersResponse(renders=renders, next_page_token=page.cursor)
            limit = max(1, fitting)  # long prompts: a shorter page, whose cursor is behind its last

    async def _page(self, request: renders_pb2.ListRendersRequest, tenant: str, limit: int) -> JobPage:
        state = FROM_STATES.get(request.state)
        with in_plain_words():
            return await self._archive.store.jobs.list(tenant, state=state, cursor=request.page_token, limit=limit)

    def _ref(self, context: Context, tenant: str, render_id: str) -> JobRef:
        tenant = self._callers.tenant_of(context, tenant)
        try:
            return JobRef(tenant=tenant, id=render_id)
        except InputError:
            raise UnknownJobError("no render has such an id") from None

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._waiting >= MOST_WAITING:
            raise ResourceError(f"{MOST_WAITING} callers watch or download here already; try again later")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1


async def _relay(messages: AsyncGenerator[object, None], context: Context) -> None:
    async with aclosing(messages) as told:
        async for message in told:
            await send(context, message)


def _count_fitting(renders: list[renders_pb2.Render]) -> int:
    """How many of them, from the first on, make a message that is not too long."""
    size = 0
    for count, render in enumerate(renders):
        size += render.ByteSize() + 8
        if size > LARGEST_PAGE_BYTES and count:
            return count
    return len(renders)


def _deadline_ms(options: request_options_pb2.RequestOptions) -> int | None:
    if not options.HasField("deadline"):
        return None
    seconds_until(options.deadline, 0.0)  # refuses what is no time
    return int(options.deadline.ToMilliseconds())


def _checked_webhook(archive: Archive, url: str) -> str:
    if url:
        archive.reach.webhooks.check(url)
    return url


def _unknown_media(media: int) -> InputError:
    if media in video_spec_pb2.Media.values():
        name = video_spec_pb2.Media.Name(media)
        return UnsupportedError(f"media {name} is not kept by renders; take MEDIA_MP4")
    return InputError(f"media is {media}; it must be one of {', '.join(video_spec_pb2.Media.keys())}")
