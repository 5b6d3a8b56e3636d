"""From conditions that name where their bytes are to conditions that have them."""

import asyncio
from functools import partial

from reelray.cluster.assets.media import PICTURES
from reelray.cluster.assets.room import AssetRoom
from reelray.cluster.gateway.video_reading import check_conditions
from reelray.cluster.model_catalog import ModelEntry
from reelray.cluster.outbound.allow_list import AllowList
from reelray.cluster.outbound.background import in_background
from reelray.cluster.outbound.exchange import Limits, fetch
from reelray.proto.errors import MediaError, ResourceError, UnsupportedError
from reelray.proto.v1 import video_spec_pb2 as wire

FETCHES = 8
"""Of one server at a time: each has a thread and may hold a large file."""
MOST_WAITING = 64


class Sources:
    """Finds what conditions name.

    Args:
        room: Keeps assets; None where there are none.
        allowed: From where may be fetched.
        limits: Of a fetch.
    """

    def __init__(self, room: AssetRoom | None, allowed: AllowList, limits: Limits | None = None) -> None:
        self._room, self._allowed, self._limits = room, allowed, limits or Limits()
        self._free, self._fetching = asyncio.Semaphore(FETCHES), 0

    async def brought(self, video: wire.VideoSpec, model: ModelEntry, tenant: str) -> wire.VideoSpec:
        """The same wish, with the bytes of its conditions inside.

        Args:
            video: From the wire; it stays as it is.
            model: What is to make it.
            tenant: Whose assets are meant.

        Raises:
            UnsupportedError: The model does not take such a condition.
            UnknownAssetError: The tenant has no such asset.
            MediaError: It is no picture.
            ForbiddenUrlError: Nothing may be fetched from there.
            FetchError: It cannot be fetched.
            TooLargeError: It is larger than is taken.
            ResourceError: Too much is fetched already.
        """
        check_conditions(video, model)
        if all(condition.WhichOneof("source") in {None, "inline"} for condition in video.conditions):
            return video
        full = wire.VideoSpec()
        full.CopyFrom(video)
        for condition in full.conditions:
            if condition.WhichOneof("source") == "asset_id":
                condition.inline = await self._picture(tenant, condition.asset_id)
            elif condition.WhichOneof("source") == "url":
                condition.inline = await self._fetched(condition.url)
        return full

    async def _picture(self, tenant: str, asset_id: str) -> bytes:
        if self._room is None:
            raise UnsupportedError("this server keeps no assets; send the picture with the request")
        asset = await self._room.get(tenant, asset_id)
        if asset.media_type not in PICTURES:
            raise MediaError(f"asset '{asset.id}' is {asset.media_type}, and a picture is needed")
        return await self._room.read(asset)

    async def _fetched(self, url: str) -> bytes:
        self._allowed.check(url)  # at once, whatever else waits
        if self._fetching >= MOST_WAITING:
            raise ResourceError(f"{MOST_WAITING} pictures are fetched here already; try again soon")
        self._fetching += 1
        try:
            async with self._free:
                return await in_background("fetch", partial(fetch, self._allowed, url, self._limits))
        finally:
            self._fetching -= 1
