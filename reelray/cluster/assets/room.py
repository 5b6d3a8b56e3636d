"""Where assets are kept: taken in, looked up, read, forgotten."""

import asyncio
import logging
import secrets
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from reelray.cluster.assets.asset import Asset, AssetRule, check_id, is_id, unknown
from reelray.cluster.assets.catalog import UPLOAD_S, AssetPage, Catalog, NewAsset
from reelray.cluster.assets.incoming import Expected, Incoming
from reelray.cluster.assets.media import LARGEST_PICTURE_BYTES, check_whole
from reelray.cluster.gateway.archive import Archive, in_plain_words
from reelray.cluster.renders.artifact import ASSETS, Artifact
from reelray.proto.errors import (
    ArtifactError,
    CancelledError,
    GoneError,
    InputError,
    ResourceError,
    StoreError,
    TooLargeError,
)

LOG = logging.getLogger("reelray.gateway")
MOST_UPLOADS = 16
"""Of one server at a time: each has a thread."""
FIRST_S, SLOWEST_BYTES_PER_S = 60.0, 100_000
"""How slow an upload may be: who drips holds a thread that others wait for."""
DECODED_AT_ONCE = 2
"""Pictures that are looked at; each takes a hundred MB or so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Announced:
    """What somebody is going to send.

    Args:
        tenant: Whose.
        size_bytes: How many bytes.
        is_exact: Whether there must be so many, and not only at most.
        sha256: Their digest, in hex; empty where the sender does not know it.
        media_type: What they are said to be; may be empty.
        keep_s: How long they are to be kept; 0 takes what the rule grants.
    """

    tenant: str
    size_bytes: int
    is_exact: bool = True
    sha256: str = ""
    media_type: str = ""
    keep_s: float = 0.0


class AssetRoom:
    """The assets of all tenants, as one server has them. Methods raise `StoreError` and `ArtifactError`.

    Args:
        archive: Where they lie, beside renders.
    """

    def __init__(self, archive: Archive) -> None:
        self._catalog, self._files = Catalog(archive.store.connection), archive.artifacts
        self._threads = ThreadPoolExecutor(MOST_UPLOADS, thread_name_prefix="upload")
        self._decoding = threading.Semaphore(DECODED_AT_ONCE)
        self._running = 0
        self.rule: AssetRule = archive.asset_rule

    async def take(self, said: Announced, pieces: AsyncIterator[bytes]) -> tuple[Asset, bool]:
        """Keep a file.

        Args:
            said: What comes.
            pieces: Its bytes; they are not looked at where it is here already.

        Returns:
            The asset, and whether it is new.

        Raises:
            InputError: What was said cannot be.
            TooLargeError: It is larger than one may be.
            UploadError: Fewer or more bytes came, or others.
            MediaError: It is none of the files that are kept, or damaged.
            QuotaError: The tenant has, or sends, as much as it may.
            ResourceError: Too many upload here now.
        """
        new = self._announced(said)
        with in_plain_words():
            known = await self._catalog.begin(new, self.rule)
        if known is not None:
            return known, False
        try:
            return await self._take_in(new, said, pieces)
        except BaseException:
            await asyncio.shield(self._give_up(new))
            raise

    async def get(self, tenant: str, asset_id: str) -> Asset:
        """Look an asset up.

        Raises:
            UnknownAssetError: The tenant has none of this id.
        """
        with in_plain_words():
            return await self._catalog.get(tenant, check_id(asset_id))

    async def list(self, tenant: str, *, cursor: str = "", after: str = "", limit: int = 50) -> AssetPage:
        """A page of a tenant's assets, the newest first, behind a cursor or the asset `after`; see `Catalog.list`."""
        with in_plain_words():
            if after:
                cursor = await self._catalog.cursor_behind(tenant, check_id(after))
            return await self._catalog.list(tenant, cursor=cursor, limit=limit)

    async def delete(self, tenant: str, asset_id: str) -> None:
        """Forget an asset and delete its file.

        Raises:
            UnknownAssetError: The tenant has none of this id.
        """
        with in_plain_words():
            file = await self._catalog.drop(tenant, check_id(asset_id))
            await asyncio.to_thread(self._files.delete, tenant, ASSETS, file)

    async def read(self, asset: Asset) -> bytes:
        """The bytes of an asset that is not too large for that.

        Raises:
            TooLargeError: It is.
            UnknownAssetError: It was taken away meanwhile.
        """
        if asset.size_bytes > LARGEST_PICTURE_BYTES:
            raise TooLargeError(
                f"asset '{asset.id}' has {asset.size_bytes} bytes; at most {LARGEST_PICTURE_BYTES} are taken here"
            )
        try:
            with in_plain_words():
                return await asyncio.to_thread(self._files.read, asset.artifact)
        except GoneError:
            raise unknown(asset.id) from None

    def close(self) -> None:
        """Free the threads once they have ended."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _announced(self, said: Announced) -> NewAsset:
        if not said.size_bytes:
            raise InputError("size_bytes is 0; say how many bytes follow")
        if said.size_bytes > self.rule.largest_bytes:
            raise TooLargeError(f"the file has {said.size_bytes} bytes; at most {self.rule.largest_bytes} are kept")
        digest = said.sha256.lower()
        if digest and not is_id(digest):
            raise InputError(f"sha256 is {said.sha256[:65]!r}; it must be the SHA-256 of the file, 64 hex digits")
        keep_s = min(said.keep_s or self.rule.keep_s, self.rule.keep_s)
        return NewAsset(
            tenant=said.tenant, id=digest, room_bytes=said.size_bytes, keep_s=keep_s, token=secrets.token_hex(8)
        )

    async def _take_in(self, new: NewAsset, said: Announced, pieces: AsyncIterator[bytes]) -> tuple[Asset, bool]:
        if self._running >= MOST_UPLOADS:
            raise ResourceError(f"{MOST_UPLOADS} uploads run here already; try again soon")
        expected = Expected(
            size_bytes=new.room_bytes, is_exact=said.is_exact, sha256=new.id, media_type=said.media_type
        )
        patience_s = min(UPLOAD_S, FIRST_S + new.room_bytes / SLOWEST_BYTES_PER_S)
        self._running += 1
        try:
            async with asyncio.timeout(patience_s):
                file, found = await self._write(new, Incoming(pieces, expected))
        except TimeoutError:
            raise CancelledError(f"the upload took longer than {patience_s:g} s; it was ended") from None
        finally:
            self._running -= 1
        with in_plain_words():
            asset = await self._catalog.add(new, found, file)
            if asset.file != file.name:  # another was quicker with the same
                await asyncio.to_thread(self._drop, file)
        return asset, asset.file == file.name

    async def _write(self, new: NewAsset, incoming: Incoming) -> tuple[Artifact, str]:
        def write() -> tuple[Artifact, str]:
            file = self._files.write(new.tenant, ASSETS, f"a{new.token}", ".asset", incoming)
            try:
                with self._decoding, self._files.opened(file) as opened:
                    check_whole(incoming.media_type, opened, file.size_bytes)
            except BaseException:
                self._drop(file)
                raise
            return file, incoming.media_type

        working = asyncio.get_running_loop().run_in_executor(self._threads, write)
        try:
            with in_plain_words():
                return await asyncio.shield(working)
        except asyncio.CancelledError:
            incoming.leave()
            await asyncio.wait({working})
            working.exception()  # it was heard
            raise

    async def _give_up(self, new: NewAsset) -> None:
        try:
            await self._catalog.give_up(new)
        except (StoreError, ResourceError) as error:  # its time runs out
            LOG.warning("the room of an upload is freed later: %s", error.message)

    def _drop(self, file: Artifact) -> None:
        try:
            self._files.delete(file.tenant, file.folder, file.name)
        except ArtifactError as error:  # it is swept away later
            LOG.warning("a file is left over: %s", error.message)
