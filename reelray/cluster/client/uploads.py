"""Files that a server keeps: sent once, named in videos."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from reelray.cluster.client.connection import ServerAddress, error_of
from reelray.cluster.client.patience import Patience
from reelray.proto.errors import InputError
from reelray.proto.v1 import assets_pb2, assets_pb2_grpc

PIECE_BYTES = 1 << 20
PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadedAsset:
    """A file that a server keeps.

    Args:
        id: SHA-256 of its bytes; ``asset:`` and this name it.
        media_type: As the server found it.
        bytes: Its length.
        expires: It is not there any more from then on.
        fresh: Whether it was not there before.
    """

    id: str
    media_type: str
    bytes: int
    expires: datetime
    fresh: bool

    def to_json(self) -> dict[str, object]:
        """Its facts for people and programs."""
        return {
            "id": self.id,
            "media_type": self.media_type,
            "bytes": self.bytes,
            "expires": self.expires.isoformat(),
            "fresh": self.fresh,
        }


def upload(
    channel: grpc.Channel, server: ServerAddress, path: Path, *, keep_s: int = 0, patience_s: float = PATIENCE_S
) -> UploadedAsset:
    """Have a server keep a file. What it has already is not sent; where the line breaks, it is sent again.

    Args:
        channel: To the server.
        server: Whose it is.
        path: The file.
        keep_s: Seconds for which it is kept; 0 takes what the server grants.
        patience_s: How long to go on trying.

    Raises:
        InputError: It cannot be read, or the server does not keep such files.
        QuotaError: The caller has as much there as it may.
        ReelrayError: The server is away for too long.
    """
    stub: Any = assets_pb2_grpc.AssetsStub(channel)  # type: ignore[no-untyped-call]
    path, patience = path.expanduser(), Patience(patience_s)
    begin = look_at(path, keep_s)
    while True:
        try:
            return read_upload(stub.Upload(parts_of(begin, path), metadata=server.metadata))
        except grpc.RpcError as failed:
            patience.wait(error_of(failed))


def look_at(path: Path, keep_s: int) -> assets_pb2.UploadAssetRequest.Begin:
    """What is said of a file at first.

    Raises:
        InputError: It cannot be read, or is empty.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size_bytes = file.tell()
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}") from None
    if not size_bytes:
        raise InputError(f"'{path}' is empty")
    try:
        return assets_pb2.UploadAssetRequest.Begin(size_bytes=size_bytes, sha256=digest, keep_seconds=keep_s)
    except (ValueError, TypeError):
        raise InputError(f"keep_s is {keep_s}; it must be a whole number of seconds, 0 or more") from None


def parts_of(begin: assets_pb2.UploadAssetRequest.Begin, path: Path) -> Iterator[assets_pb2.UploadAssetRequest]:
    """The messages of a file."""
    yield assets_pb2.UploadAssetRequest(begin=begin)
    with path.open("rb") as file:  # of its own: one that is not needed any more may go on reading for a while
        while piece := file.read(PIECE_BYTES):
            yield assets_pb2.UploadAssetRequest(data=piece)


def read_upload(answer: assets_pb2.UploadAssetResponse) -> UploadedAsset:
    """A file as the server keeps it."""
    asset = answer.asset
    return UploadedAsset(
        id=asset.id,
        media_type=asset.media_type,
        bytes=asset.size_bytes,
        expires=asset.expires.ToDatetime(tzinfo=UTC),
        fresh=answer.fresh,
    )
