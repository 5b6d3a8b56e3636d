"""The paths of the HTTP side, who may call them, and what becomes of errors."""

import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reelray.cluster.assets.sources import Sources
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.http_api.asset_pages import AssetPages
from reelray.cluster.http_api.callers import tenant_of
from reelray.cluster.http_api.metrics import Metrics
from reelray.cluster.http_api.problems import answer_error, answer_refusal, answer_unexpected
from reelray.cluster.http_api.videos import House, Videos
from reelray.proto.errors import ReelrayError

OPEN = ("/healthz",)
Answerer = Callable[[Request], Awaitable[Response]]


def make_app(house: House, callers: Callers, *, on_loopback: bool) -> ASGIApp:
    """The application.

    Args:
        house: What calls work on.
        callers: Who may call.
        on_loopback: Whether only this machine can reach it.
    """
    metrics = Metrics(house.models, house.archive, house.desk.loads)
    app = Starlette(
        routes=_routes(house, metrics),
        exception_handlers={
            ReelrayError: answer_error,
            HTTPException: answer_refusal,
            Exception: answer_unexpected,
        },
    )
    app.router.redirect_slashes = False  # to where a caller's own `Host` says, and in the clear behind a proxy of TLS
    return _Doorkeeper(app, callers, metrics, on_loopback=on_loopback)


def _routes(house: House, metrics: Metrics) -> list[Route]:
    videos = Videos(house, Sources(house.room, house.archive.reach.urls))
    assets = AssetPages(house.room)

    async def healthz(_request: Request) -> Response:
        is_well = not house.closing.is_set() and any(model.is_ready for model in house.models)
        status = HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"status": "ok" if is_well else "unavailable"}, status)

    async def tell_metrics(_request: Request) -> Response:
        return Response(await metrics.told(), media_type=CONTENT_TYPE_LATEST)

    async def list_models(_request: Request) -> Response:
        names = [model.entry.name for model in house.models]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "reelray"} for name in names]
        return JSONResponse({"object": "list", "data": data})

    paths: list[tuple[str, str, Answerer]] = [
        ("GET", "/healthz", healthz),
        ("GET", "/metrics", tell_metrics),
        ("GET", "/v1/models", list_models),
        ("POST", "/v1/videos", videos.create),
        ("GET", "/v1/videos", videos.list),
        ("GET", "/v1/videos/{id}", videos.retrieve),
        ("DELETE", "/v1/videos/{id}", videos.delete),
        ("GET", "/v1/videos/{id}/content", videos.content),
        ("POST", "/v1/videos/{id}/remix", videos.remix),
        ("GET", "/v1/videos/{id}/events", videos.events),
        ("POST", "/v1/assets", assets.upload),
        ("GET", "/v1/assets", assets.list),
        ("GET", "/v1/assets/{id}", assets.retrieve),
        ("DELETE", "/v1/assets/{id}", assets.delete),
    ]
    by_path: dict[str, dict[str, Answerer]] = {}
    for method, path, answer in paths:
        by_path.setdefault(path, {})[method] = answer
    return [Route(path, _choose(answers), methods=list(answers)) for path, answers in by_path.items()]


def _choose(answers: dict[str, Answerer]) -> Answerer:
    """One answerer for all methods of a path."""

    async def answer(request: Request) -> Response:
        return await answers["GET" if request.method == "HEAD" else request.method](request)

    return answer


class _Doorkeeper:
    """Around the application: lets callers in, and counts what they were told."""

    def __init__(self, app: ASGIApp, callers: Callers, metrics: Metrics, *, on_loopback: bool) -> None:
        self._app, self._callers, self._metrics, self._on_loopback = app, callers, metrics, on_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began_s, status = time.monotonic(), 0

        async def pass_on(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._answer(scope, receive, pass_on)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.count(route, _known(scope["method"]), status, time.monotonic() - began_s)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in OPEN:
            try:
                tenant = tenant_of(self._callers, Headers(scope=scope), on_loopback=self._on_loopback)
            except HTTPException as refusal:
                await (await answer_refusal(Request(scope), refusal))(scope, receive, send)
                return
            scope.setdefault("state", {})["tenant"] = tenant
        await self._app(scope, receive, send)


def _known(method: str) -> str:
    """A label: callers cannot make up new ones."""
    return method if method in {"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"} else "other"
