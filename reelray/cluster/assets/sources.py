"""From conditions that name where their bytes are to conditions that have them."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from reelray.cluster.assets.media import PICTURES
from reelray.cluster.assets.room import AssetRoom
from reelray.cluster.gateway.video_reading import check_conditions
from reelray.cluster.model_catalog import ModelEntry
from reelray.cluster.outbound.allow_list import AllowList
from reelray.cluster.outbound.background import in_background
from reelray.cluster.outbound.exchange import Limits, fetch
from reelray.proto.errors import MediaError, ResourceError, UnsupportedError
from reelray.proto.v1 import video_spec_pb2 as wire

AT_ONCE = 8
"""Wishes of one server whose pictures are fetched, and as many whose pictures are read: each may hold a large file."""
MOST_WAITING = 64
Plan = TypeVar("Plan")


class Sources:
    """Finds what conditions name.

    Args:
        room: Keeps assets; None where there are none.
        allowed: From where may be fetched.
        limits: Of a fetch.
    """

    def __init__(self, room: AssetRoom | None, allowed: AllowList, limits: Limits | None = None) -> None:
        self._room, self._allowed, self._limits = room, allowed, limits or Limits()
        self._lines = {"asset_id": _Line("read"), "url": _Line("fetched")}

    async def plan(
        self, video: wire.VideoSpec, model: ModelEntry, tenant: str, plan: Callable[[wire.VideoSpec], Plan]
    ) -> Plan:
        """Plan a wish with the bytes of its conditions inside, in a thread. Raises what planning raises, too.

        Args:
            video: From the wire; it stays as it is.
            model: What is to make it.
            tenant: Whose assets are meant.
            plan: Is given the wish.

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
        source = video.conditions[0].WhichOneof("source") if video.conditions else None
        if source not in self._lines:
            return await asyncio.to_thread(plan, video)
        if source == "url":
            self._allowed.check(video.conditions[0].url)  # at once, whatever else waits
        return await self._lines[source].do(partial(self._plan_with_picture, video, tenant, plan))

    async def _plan_with_picture(
        self, video: wire.VideoSpec, tenant: str, plan: Callable[[wire.VideoSpec], Plan]
    ) -> Plan:
        full = wire.VideoSpec()
        full.CopyFrom(video)
        picture = full.conditions[0]
        is_url = picture.WhichOneof("source") == "url"
        picture.inline = await (self._fetched(picture.url) if is_url else self._kept(tenant, picture.asset_id))
        return await asyncio.to_thread(plan, full)

    async def _kept(self, tenant: str, asset_id: str) -> bytes:
        if self._room is None:
            raise UnsupportedError("this server keeps no assets; send the picture with the request")
        asset = await self._room.get(tenant, asset_id)
        if asset.media_type not in PICTURES:
            raise MediaError(f"asset '{asset.id}' is {asset.media_type}, and a picture is needed")
        return await self._room.read(asset)

    async def _fetched(self, url: str) -> bytes:
        return await in_background("fetch", partial(fetch, self._allowed, url, self._limits))


class _Line:
    """Some at a time, some who wait, and no more.

    What a caller leaves is in a thread and goes on for a while: until then its place is taken.
    """

    def __init__(self, what: str) -> None:
        self._what, self._free, self._here = what, asyncio.Semaphore(AT_ONCE), 0

    async def do(self, work: Callable[[], Awaitable[Plan]]) -> Plan:
        if self._here >= AT_ONCE + MOST_WAITING:
            raise ResourceError(f"{self._here} pictures are {self._what} here already; try again soon")
        self._here += 1
        try:
            await self._free.acquire()
        except BaseException:
            self._here -= 1
            raise
        doing = asyncio.ensure_future(work())
        doing.add_done_callback(self._leave)
        return await asyncio.shield(doing)

    def _leave(self, done: "asyncio.Future[Plan]") -> None:
        self._here -= 1
        self._free.release()
        if not done.cancelled():
            done.exception()  # it was heard, or nobody wants to
