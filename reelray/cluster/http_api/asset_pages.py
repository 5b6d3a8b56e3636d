"""`/v1/assets` over the asset room of one server."""

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reelray.cluster.assets.asset import Asset
from reelray.cluster.assets.room import Announced, AssetRoom
from reelray.cluster.http_api.bodies import Part
from reelray.cluster.http_api.form_stream import FormStream
from reelray.proto.errors import InputError, TooLargeError

PAGE, LONGEST_PAGE = 20, 100
LONGEST_VALUE = 200


class AssetPages:
    """Answers calls whose tenant is known, as `request.state.tenant`.

    Args:
        room: Where assets are kept.
    """

    def __init__(self, room: AssetRoom) -> None:
        self._room = room

    async def upload(self, request: Request) -> Response:
        """Keep a file: a form of `file`, and before it `sha256`, `media_type` and `keep_seconds` where wanted."""
        announced = request.headers.get("content-length", "")
        if not (announced.isascii() and announced.isdecimal() and len(announced) <= 15):
            raise HTTPException(HTTPStatus.LENGTH_REQUIRED, "say how long the body is (Content-Length)")
        if int(announced) > self._room.rule.largest_bytes:
            raise TooLargeError(f"the form has {announced} bytes; at most {self._room.rule.largest_bytes} are kept")
        form, values = FormStream(request), dict[str, str]()
        while (field := await form.next_field()) is not None:
            if field.is_file:
                said = _said(request.state.tenant, field, values, int(announced))
                asset, fresh = await self._room.take(said, _file_of(form))
                return JSONResponse(told(asset), HTTPStatus.CREATED if fresh else HTTPStatus.OK)
            if field.name in values:
                raise InputError(f"field {field.name[:40]!r} was given twice")
            values[field.name] = await _value_of(form, field)
        raise InputError("the form has no file; send it as the field file, behind all others")

    async def retrieve(self, request: Request) -> Response:
        """How an asset is."""
        return JSONResponse(told(await self._room.get(request.state.tenant, request.path_params["id"])))

    async def list(self, request: Request) -> Response:
        """A page of assets, the newest first."""
        said = request.query_params
        if unknown := sorted(said.keys() - {"limit", "after"}):
            raise InputError(f"{unknown[0][:40]!r} is none of limit and after")
        limit = said.get("limit", str(PAGE))
        if not (limit.isascii() and limit.isdecimal() and len(limit) <= 4 and 1 <= int(limit) <= LONGEST_PAGE):
            raise InputError(f"limit is {limit[:40]!r}; allowed are 1 to {LONGEST_PAGE}")
        page = await self._room.list(request.state.tenant, after=said.get("after", ""), limit=int(limit))
        data = [told(asset) for asset in page.assets]
        return JSONResponse({"object": "list", "data": data, "has_more": bool(page.cursor)})

    async def delete(self, request: Request) -> Response:
        """Forget an asset."""
        asset_id = request.path_params["id"]
        await self._room.delete(request.state.tenant, asset_id)
        return JSONResponse({"id": asset_id, "object": "asset.deleted", "deleted": True})


def told(asset: Asset) -> dict[str, Any]:
    """An asset as HTTP says it."""
    return {
        "id": asset.id,
        "object": "asset",
        "bytes": asset.size_bytes,
        "media_type": asset.media_type,
        "created_at": asset.created_ms // 1000,
        "expires_at": asset.expires_ms // 1000,
    }


async def _file_of(form: FormStream) -> AsyncIterator[bytes]:
    async for piece in form.data():
        yield piece
    if await form.next_field() is not None:
        raise InputError("a field follows the file, which must be the last")


async def _value_of(form: FormStream, field: Part) -> str:
    data = bytearray()
    async for piece in form.data():
        data += piece
        if len(data) > LONGEST_VALUE:
            raise InputError(f"field {field.name[:40]!r} is too long")
    return data.decode(errors="replace")


def _said(tenant: str, field: Part, values: dict[str, str], size_bytes: int) -> Announced:
    if field.name != "file":
        raise InputError(f"field {field.name[:40]!r} is a file; the only one taken is file")
    if unknown := sorted(values.keys() - {"sha256", "media_type", "keep_seconds"}):
        raise InputError(f"{unknown[0][:40]!r} is none of sha256, media_type, keep_seconds and file")
    keep = values.get("keep_seconds", "0")
    if not (keep.isascii() and keep.isdecimal() and len(keep) <= 9):
        raise InputError(f"keep_seconds is {keep[:40]!r}; it must be a whole number of seconds")
    return Announced(
        tenant=tenant,
        size_bytes=size_bytes,
        is_exact=False,
        sha256=values.get("sha256", ""),
        media_type=values.get("media_type", ""),
        keep_s=float(keep),
    )
