"""Files that a server keeps, sent in asyncio."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from reelray.cluster.client.connection import ServerAddress, error_of
from reelray.cluster.client.patience import Patience
from reelray.cluster.client.uploads import PATIENCE_S, UploadedAsset, look_at, parts_of, read_upload
from reelray.proto.v1 import assets_pb2, assets_pb2_grpc


async def async_upload(
    channel: grpc.aio.Channel, server: ServerAddress, path: Path, *, keep_s: int = 0, patience_s: float = PATIENCE_S
) -> UploadedAsset:
    """Have a server keep a file; see `uploads.upload`."""
    stub: Any = assets_pb2_grpc.AssetsStub(channel)  # type: ignore[no-untyped-call]
    path, patience = await asyncio.to_thread(path.expanduser), Patience(patience_s)
    begin = await asyncio.to_thread(look_at, path, keep_s)
    while True:
        try:
            return read_upload(await stub.Upload(_parts(begin, path), metadata=server.metadata))
        except grpc.RpcError as failed:
            await asyncio.sleep(patience.pause_s(error_of(failed)))


async def _parts(
    begin: assets_pb2.UploadAssetRequest.Begin, path: Path
) -> AsyncIterator[assets_pb2.UploadAssetRequest]:
    parts = parts_of(begin, path)
    while (part := await asyncio.to_thread(next, parts, None)) is not None:
        yield part
