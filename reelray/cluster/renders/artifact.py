"""What a file of a job is called, and what is known of it."""

from dataclasses import dataclass

from reelray.cluster.store.names import JobRef, check_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A file that never changes. It is written down in the store once all of it is there.

    Args:
        tenant: Whose.
        folder: The job's id, `INPUTS` or `ASSETS`.
        name: Within the folder; the store of files chooses it.
        size_bytes: Its length.
        sha256: Hex digest of its bytes.
    """

    tenant: str
    folder: str
    name: str
    size_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        check_name("tenant", self.tenant)
        check_name("folder", self.folder)
        check_name("file", self.name)
        if self.size_bytes < 0 or len(self.sha256) != 64 or not set(self.sha256) <= set("0123456789abcdef"):
            raise ValueError(f"file '{self.name}' has {self.size_bytes} bytes and digest '{self.sha256[:65]}'")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """A file as it lies there, of whatever origin.

    Args:
        tenant: Whose.
        folder: Where.
        name: Within the folder.
        size_bytes: Its length.
        modified_s: When it was written, in seconds since 1970 by the clock of the place.
    """

    tenant: str
    folder: str
    name: str
    size_bytes: int
    modified_s: float


INPUTS = "inputs"
"""Folder of pictures that jobs begin with; no job's id is as short."""
ASSETS = "assets"
"""Folder of what tenants have uploaded."""


def folder_of(ref: JobRef) -> str:
    """The folder of a job's files."""
    return ref.id
