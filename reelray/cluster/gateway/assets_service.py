"""`reelray.v1.Assets` over the asset room of one server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import DecodeError

from reelray.cluster.assets.asset import Asset
from reelray.cluster.assets.room import Announced, AssetRoom
from reelray.cluster.gateway.boundary import Context, or_status
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.message_guard import UNREADABLE
from reelray.cluster.gateway.render_answers import at_ms
from reelray.proto.errors import CancelledError, InputError, UploadError
from reelray.proto.v1 import assets_pb2, assets_pb2_grpc

PAGE, LONGEST_PAGE = 50, 100
SILENT_S = 30.0
"""How long a caller may send nothing while bytes are due."""


class Assets(assets_pb2_grpc.AssetsServicer):
    """Keeps what callers bring along.

    Args:
        room: Where it is kept.
        callers: Who may call.
    """

    def __init__(self, room: AssetRoom, callers: Callers) -> None:
        self._room, self._callers = room, callers

    async def Upload(  # noqa: N802  named by the service
        self, requests: AsyncIterator[object], context: Context
    ) -> assets_pb2.UploadAssetResponse:
        """See `assets.proto`."""

        async def upload() -> assets_pb2.UploadAssetResponse:
            parts = _Parts(requests)
            begin = await parts.begin()
            if not begin.sha256:
                raise InputError("begin.sha256 is missing; say the SHA-256 of the file, in hex")
            said = Announced(
                tenant=self._callers.tenant_of(context, begin.tenant),
                size_bytes=begin.size_bytes,
                sha256=begin.sha256,
                media_type=begin.media_type,
                keep_s=begin.keep_seconds,
            )
            asset, fresh = await self._room.take(said, parts.data())
            return assets_pb2.UploadAssetResponse(asset=asset_of(asset), fresh=fresh)

        return await or_status(context, upload)

    async def Get(self, request: assets_pb2.GetAssetRequest, context: Context) -> assets_pb2.Asset:  # noqa: N802
        """See `assets.proto`."""

        async def get() -> assets_pb2.Asset:
            tenant = self._callers.tenant_of(context, request.tenant)
            return asset_of(await self._room.get(tenant, request.id))

        return await or_status(context, get)

    async def List(  # noqa: N802
        self, request: assets_pb2.ListAssetsRequest, context: Context
    ) -> assets_pb2.ListAssetsResponse:
        """See `assets.proto`."""

        async def tell() -> assets_pb2.ListAssetsResponse:
            tenant = self._callers.tenant_of(context, request.tenant)
            if request.page_size > LONGEST_PAGE:
                raise InputError(f"page_size is {request.page_size}; allowed are 1 to {LONGEST_PAGE}")
            page = await self._room.list(tenant, cursor=request.page_token, limit=request.page_size or PAGE)
            return assets_pb2.ListAssetsResponse(
                assets=[asset_of(asset) for asset in page.assets], next_page_token=page.cursor
            )

        return await or_status(context, tell)

    async def Delete(  # noqa: N802
        self, request: assets_pb2.DeleteAssetRequest, context: Context
    ) -> assets_pb2.DeleteAssetResponse:
        """See `assets.proto`."""

        async def delete() -> assets_pb2.DeleteAssetResponse:
            await self._room.delete(self._callers.tenant_of(context, request.tenant), request.id)
            return assets_pb2.DeleteAssetResponse()

        return await or_status(context, delete)


class _Parts:
    """The messages of an upload: one that says what comes, then bytes."""

    def __init__(self, requests: AsyncIterator[Any]) -> None:
        self._requests = aiter(requests)

    async def begin(self) -> assets_pb2.UploadAssetRequest.Begin:
        """The first message.

        Raises:
            UploadError: It is another, or there is none.
        """
        first = await self._next()
        if first is None or first.WhichOneof("part") != "begin":
            raise UploadError("the first message of an upload says what comes (begin), and this is another")
        return first.begin

    async def data(self) -> AsyncIterator[bytes]:
        """What follows.

        Raises:
            UploadError: A message has no bytes.
            CancelledError: The caller says nothing any more.
        """
        while (part := await self._next()) is not None:
            if part.WhichOneof("part") != "data":
                raise UploadError("a message of an upload, other than the first, has no data")
            yield part.data

    async def _next(self) -> assets_pb2.UploadAssetRequest | None:
        try:
            async with asyncio.timeout(SILENT_S):
                part = await anext(self._requests, None)
        except TimeoutError:
            raise CancelledError(f"nothing came for {SILENT_S:g} s; the upload was ended") from None
        except DecodeError:
            part = UNREADABLE
        if part is not None and not isinstance(part, assets_pb2.UploadAssetRequest):
            raise InputError("a message of the upload is none of this call; was it sent by another version?")
        return part


def asset_of(asset: Asset) -> assets_pb2.Asset:
    """Say how an asset is."""
    return assets_pb2.Asset(
        id=asset.id,
        tenant=asset.tenant,
        media_type=asset.media_type,
        size_bytes=asset.size_bytes,
        created=at_ms(asset.created_ms),
        expires=at_ms(asset.expires_ms),
    )
