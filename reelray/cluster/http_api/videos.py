"""`/v1/videos` over the renders of the gateway."""

import asyncio
import logging
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reelray.cluster.assets.room import AssetRoom
from reelray.cluster.assets.sources import Sources
from reelray.cluster.coordinator.desk import Desk
from reelray.cluster.gateway.archive import Archive, in_plain_words
from reelray.cluster.gateway.option_check import LONGEST_KEY
from reelray.cluster.gateway.render_promise import with_promise
from reelray.cluster.gateway.served_models import ServedModels
from reelray.cluster.gateway.services import plan_request
from reelray.cluster.gateway.tenant_quotas import TenantQuotas
from reelray.cluster.http_api.bodies import read_body
from reelray.cluster.http_api.content import answer_content
from reelray.cluster.http_api.event_stream import EVENT_HEADERS, EVENT_STREAM, EventStream, Following, follow
from reelray.cluster.http_api.video_objects import percent, video_of
from reelray.cluster.http_api.wishes import read_json, read_wish
from reelray.cluster.render import RenderJob, check_text, new_request_id
from reelray.cluster.renders.artifact import folder_of
from reelray.cluster.renders.spec import RenderSpec, seed_for_key
from reelray.cluster.renders.submission import Submission, submit_render
from reelray.cluster.store.job import Job, JobState
from reelray.cluster.store.names import JobRef
from reelray.proto.errors import (
    ArtifactError,
    InputError,
    PromptError,
    ResourceError,
    UnknownJobError,
    UnsupportedError,
)
from reelray.proto.v1.video_spec_pb2 import VideoSpec

LOG = logging.getLogger("reelray.gateway")
PAGE, LONGEST_PAGE = 20, 100
NEWEST_EVENTS = 32
MOST_FOLLOWING = 500
"""Readers of events, each with a line to the store of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class House:
    """What the calls work on.

    Args:
        models: What is served.
        archive: Where renders are kept.
        room: Where uploads are taken in; that of the gRPC side beside it.
        desk: Asks who decides, and knows how much the engines of each model have to do.
        quotas: Of tenants.
        closing: Set when the server is about to end.
    """

    models: ServedModels
    archive: Archive
    room: AssetRoom
    desk: Desk
    quotas: TenantQuotas = field(default_factory=TenantQuotas)
    closing: asyncio.Event = field(default_factory=asyncio.Event)


class Videos:
    """Answers calls whose tenant is known, as `request.state.tenant`.

    Args:
        house: What to work on.
        sources: Where pictures are found that do not come with the request.
    """

    def __init__(self, house: House, sources: Sources) -> None:
        self._house, self._archive, self._sources, self._following = house, house.archive, sources, Following()

    async def create(self, request: Request) -> Response:
        """Take on a video: a wish as JSON or as a form."""
        wish, tenant = await read_wish(request), request.state.tenant
        due_ms = wish.deadline_ms()
        key = _key_of(request)
        seed = None if key is None else seed_for_key(tenant, key)
        video = wish.video()
        if not video.conditions:
            job, digest = self._plan(seed, video)
        else:  # pictures take time
            entry = self._house.models.find(video.model).entry
            job, digest = await self._sources.plan(video, entry, tenant, partial(self._plan, seed))
        if wish.webhook:
            self._archive.reach.webhooks.check(wish.webhook)
        submission = Submission(
            tenant=tenant, key=key, priority=wish.priority, webhook=wish.webhook, deadline_ms=due_ms
        )
        return await self._submit(job, digest, submission)

    async def retrieve(self, request: Request) -> Response:
        """How a video is."""
        return JSONResponse(await self._told(await self._job(request)))

    async def list(self, request: Request) -> Response:
        """A page of videos, the newest first."""
        limit, after, order = _page_of(request)
        jobs = self._archive.store.jobs
        with in_plain_words():
            cursor = await jobs.cursor_behind(_ref(request, after)) if after else ""
            page = await jobs.list(request.state.tenant, cursor=cursor, limit=limit, oldest_first=order == "asc")
        videos = await asyncio.gather(*(self._told(job) for job in page.jobs))
        first, last = (videos[0]["id"], videos[-1]["id"]) if videos else (None, None)
        told = {"object": "list", "data": videos, "first_id": first, "last_id": last, "has_more": bool(page.cursor)}
        return JSONResponse(told)

    async def delete(self, request: Request) -> Response:
        """Forget a video, and cancel it where it has not ended."""
        ref, archive = _ref(request), self._archive
        with in_plain_words():
            await archive.store.jobs.forget(ref)
            try:
                await asyncio.to_thread(archive.artifacts.delete_folder, ref.tenant, folder_of(ref))
            except ArtifactError as error:  # whoever tidies up finds them; to ask again would find no such video
                LOG.warning("files of a deleted video are left for now: %s", error.message)
        return JSONResponse({"id": ref.id, "object": "video.deleted", "deleted": True})

    async def content(self, request: Request) -> Response:
        """The file of a finished video."""
        variant = request.query_params.get("variant", "video")
        if variant != "video":
            raise UnsupportedError(f"variant is {variant[:40]!r}; only video is made here")
        return await answer_content(request, self._archive, await self._job(request))

    async def remix(self, request: Request) -> Response:
        """The same wish, seed and picture once more, with another prompt."""
        said = read_json(await read_body(request))
        if said.keys() != {"prompt"}:
            raise InputError("a remix takes the field prompt, and no other")
        job, digest = await self._replan(await self._job(request), said["prompt"])
        source = _ref(request)
        submission = Submission(tenant=source.tenant, key=_key_of(request), remixed_from=source.id)
        return await self._submit(job, digest, submission)

    async def events(self, request: Request) -> Response:
        """What happens to a video, until it has ended."""
        said = request.headers.get("last-event-id") or request.query_params.get("after", "0")
        job = await self._job(request)
        if not (said.isascii() and said.isdecimal() and len(said) <= 15 and int(said) <= job.events):
            raise InputError(f"after is {said[:40]!r}; it must be the number of an event, 0 to {job.events}")
        if job.state.ended and int(said) == job.events:
            return Response(None, HTTPStatus.NO_CONTENT)  # by which browsers know that there is no more
        if self._following.count >= MOST_FOLLOWING:
            raise ResourceError(f"{MOST_FOLLOWING} callers follow events here already; try again later")
        if request.method == "HEAD":
            return Response(None, headers=EVENT_HEADERS, media_type=EVENT_STREAM)
        told = follow(self._archive, job.ref, int(said), self._house.closing)
        return EventStream(told, self._following)

    def _plan(self, seed: int | None, video: VideoSpec) -> tuple[RenderJob, str]:
        model, job = plan_request(self._house.models, video, seed=seed)
        return job, model.description.digest

    async def _replan(self, job: Job, prompt: object) -> tuple[RenderJob, str]:
        spec = RenderSpec.from_json(job.spec)
        model = self._house.models.find(spec.model)
        if model.description.digest != spec.digest:
            raise InputError(f"model '{spec.model}' has changed since; create the video anew")
        text = check_text("prompt", prompt, model.entry.facts)
        if not text:
            raise PromptError("the prompt is empty; say what the video shows")
        image = None
        if spec.picture is not None:
            with in_plain_words():
                image = await asyncio.to_thread(self._archive.artifacts.read, spec.picture)
        made = spec.job(model.entry, new_request_id(), image)
        return replace(made, request=replace(made.request, prompt=text)), spec.digest

    async def _submit(self, job: RenderJob, digest: str, submission: Submission) -> Response:
        archive = self._archive
        limits = self._house.quotas.limits_of(submission.tenant, frames=job.request.frames)
        submission = replace(submission, limits=limits, retention_s=archive.rule.ttl_s)
        submission = await with_promise(self._house.desk, archive.store.jobs, job, submission)
        with in_plain_words():
            made = await submit_render(archive.store, archive.artifacts, job, digest, submission)
            if made.fresh:
                self._house.desk.look_for_renders()
            return JSONResponse(await self._told(await archive.store.jobs.get(made.ref)))

    async def _job(self, request: Request) -> Job:
        with in_plain_words():
            return await self._archive.store.jobs.get(_ref(request))

    async def _told(self, job: Job) -> dict[str, Any]:
        kept_s = self._archive.rule.ttl_s
        if job.state is not JobState.RUNNING:
            return video_of(job, kept_s)
        with in_plain_words():
            events, _ = await self._archive.store.events.read(
                job.ref, after=max(0, job.events - NEWEST_EVENTS), limit=2 * NEWEST_EVENTS
            )
        return video_of(job, kept_s, percent(job, events))


def _ref(request: Request, video_id: str | None = None) -> JobRef:
    try:
        return JobRef(tenant=request.state.tenant, id=video_id or request.path_params["id"])
    except InputError:
        raise UnknownJobError("no video has such an id") from None


def _key_of(request: Request) -> str | None:
    key = request.headers.get("idempotency-key") or None
    if key is not None and len(key) > LONGEST_KEY:
        raise InputError(f"Idempotency-Key has {len(key)} characters; allowed are {LONGEST_KEY}")
    return key


def _page_of(request: Request) -> tuple[int, str, str]:
    said = request.query_params
    if unknown := sorted(said.keys() - {"limit", "after", "order"}):
        raise InputError(f"{unknown[0][:40]!r} is none of limit, after and order")
    limit, order = said.get("limit", str(PAGE)), said.get("order", "desc")
    if not (limit.isascii() and limit.isdecimal() and len(limit) <= 4 and 1 <= int(limit) <= LONGEST_PAGE):
        raise InputError(f"limit is {limit[:40]!r}; allowed are 1 to {LONGEST_PAGE}")
    if order not in {"asc", "desc"}:
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"order is {order[:40]!r}; it must be asc or desc")
    return int(limit), said.get("after", ""), order
