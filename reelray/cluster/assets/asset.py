"""A file of a tenant, and how many of them are kept for how long."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from reelray.cluster.renders.artifact import ASSETS, Artifact
from reelray.proto.errors import UnknownAssetError

_ID = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AssetRule:
    """How much is kept.

    Args:
        keep_s: Longest time that an asset is kept after it was sent.
        most_bytes: Of a tenant's assets together.
        most_assets: Of a tenant.
        largest_bytes: Of one.
        most_uploads: Of a tenant at a time.
    """

    keep_s: float = 7 * 86_400.0
    most_bytes: int = 10_000_000_000
    most_assets: int = 10_000
    largest_bytes: int = 2_000_000_000
    most_uploads: int = 8

    def __post_init__(self) -> None:
        for name in ("keep_s", "most_bytes", "most_assets", "largest_bytes", "most_uploads"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be greater than 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asset:
    """A file that is kept. Times are the store's, in milliseconds since 1970.

    Args:
        tenant: Whose.
        id: SHA-256 of its bytes in hex.
        media_type: What it is.
        size_bytes: Its length.
        file: Name of the file that has it.
        created_ms: When it was sent first.
        expires_ms: From then on it is not there any more.
    """

    tenant: str
    id: str
    media_type: str
    size_bytes: int
    file: str
    created_ms: int
    expires_ms: int

    @property
    def artifact(self) -> Artifact:
        """Where its bytes lie."""
        return Artifact(tenant=self.tenant, folder=ASSETS, name=self.file, size_bytes=self.size_bytes, sha256=self.id)

    @classmethod
    def of_row(cls, tenant: str, asset_id: str, row: Sequence[bytes]) -> "Asset":
        """Read what the store has of it: names and values in turn."""
        said = dict(zip(row[::2], (value.decode() for value in row[1::2]), strict=True))
        return cls(
            tenant=tenant,
            id=asset_id,
            media_type=said[b"media_type"],
            size_bytes=int(said[b"size"]),
            file=said[b"file"],
            created_ms=int(said[b"created_ms"]),
            expires_ms=int(said[b"expires_ms"]),
        )


def is_id(text: str) -> bool:
    """Whether an asset could have this id."""
    return _ID.fullmatch(text) is not None


def check_id(asset_id: str) -> str:
    """Give an id back that is one.

    Raises:
        UnknownAssetError: No asset has such an id.
    """
    if not is_id(asset_id):
        raise UnknownAssetError(f"no asset has such an id as {asset_id[:65]!r}; ids are 64 hex digits")
    return asset_id


def unknown(asset_id: str) -> UnknownAssetError:
    """The error for an asset that is not there; the same for one of another tenant."""
    return UnknownAssetError(f"no asset '{asset_id}'; it may have expired: upload it again")
