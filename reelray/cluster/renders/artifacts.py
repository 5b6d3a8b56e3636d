"""Files of jobs in a folder, or wherever fsspec reaches: written once, read in ranges, deleted with their job.

A file lies at `<root>/<tenant>/<job>/<stem>-<first half of its digest><suffix>`. All parts are names in the sense of
`store.names`, so that no key leads out of the root. A file gets its name when all of it is there; until then it has
another one that ends in `.part`.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from datetime import UTC
from pathlib import Path
from typing import Any, BinaryIO

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from reelray.cluster.renders.artifact import Artifact, StoredFile
from reelray.cluster.store.names import check_name, is_name
from reelray.proto.errors import ArtifactError, GoneError, InputError

PARTIAL = ".part"
PIECE_BYTES = 1 << 20
_DIGEST_LETTERS = 32
_LONGEST_STEM = 24


class Artifacts:
    """The files of all jobs. Every method blocks; call it in a thread of its own. Safe for several threads.

    Args:
        url: A folder, or any URL that fsspec knows, such as ``s3://bucket/renders``.
        options: What that file system takes, such as credentials.

    Raises:
        InputError: Nothing here speaks that URL's protocol.
    """

    def __init__(self, url: str | Path, **options: Any) -> None:
        try:
            self._files, root = fsspec.core.url_to_fs(str(url), **options)
        except (ValueError, ImportError) as error:
            raise InputError(f"files of jobs cannot lie at '{_without_secrets(str(url))}': {error}") from None
        self._root: str = root.rstrip("/")
        self._is_local = isinstance(self._files, LocalFileSystem)

    def write(self, tenant: str, folder: str, stem: str, suffix: str, data: bytes | Iterable[bytes]) -> Artifact:
        """Write a file; it is there completely or not at all.

        Args:
            tenant: Whose.
            folder: The job's.
            stem: First part of its name, at most 24 characters.
            suffix: Last part, such as ``.mp4``.
            data: Its bytes, or pieces of them.

        Raises:
            InputError: A part of the name is none.
            ArtifactError: It cannot be written, such as to a full disk.
        """
        stem = check_name("file", stem)
        if len(stem) > _LONGEST_STEM:
            raise InputError(f"file is '{stem}': at most {_LONGEST_STEM} characters are taken")
        partial = self._path(tenant, folder, f"{stem}-{secrets.token_hex(8)}{PARTIAL}")
        pieces = (data,) if isinstance(data, bytes) else data
        with _speaking_of(partial), self._dropping(partial):
            self._files.makedirs(self._path(tenant, folder), exist_ok=True)
            size, digest = self._write_pieces(partial, pieces)
            name = f"{stem}-{digest[:_DIGEST_LETTERS]}{suffix}"
            artifact = Artifact(tenant=tenant, folder=folder, name=name, size_bytes=size, sha256=digest)
            self._files.mv(partial, self._path_of(artifact))
            self._settle(tenant, folder)
        return artifact

    def read(self, artifact: Artifact, begin: int = 0, end: int | None = None) -> bytes:
        """Bytes of a file from `begin` up to `end`, or its end.

        Raises:
            GoneError: It is not there.
            ArtifactError: It cannot be read, or is shorter than it was.
        """
        end = artifact.size_bytes if end is None else min(end, artifact.size_bytes)
        if begin >= end:
            return b""
        with _speaking_of(artifact.name):
            data = bytes(self._files.cat_file(self._path_of(artifact), start=begin, end=end))
        if len(data) != end - begin:
            raise ArtifactError(f"file '{artifact.name}' is damaged: it ends before its {artifact.size_bytes} bytes")
        return data

    def pieces(self, artifact: Artifact, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The same, at most 1 MiB at a time."""
        end = artifact.size_bytes if end is None else min(end, artifact.size_bytes)
        for at in range(begin, end, PIECE_BYTES):
            yield self.read(artifact, at, min(end, at + PIECE_BYTES))

    @contextlib.contextmanager
    def opened(self, artifact: Artifact) -> Iterator[BinaryIO]:
        """A file to read and to go about in.

        Raises:
            GoneError: It is not there.
            ArtifactError: It cannot be read.
        """
        with _speaking_of(artifact.name), self._files.open(self._path_of(artifact), "rb") as file:
            yield file

    @property
    def place(self) -> str:
        """Where they lie, for people."""
        return _without_secrets(self._root)

    def read_mark(self, name: str) -> bytes | None:
        """A file beside the tenants' folders; None where it is not there.

        Raises:
            ArtifactError: It cannot be read.
        """
        with contextlib.suppress(GoneError), _speaking_of(name):
            return bytes(self._files.cat_file(self._path(name)))
        return None

    def write_mark(self, name: str, data: bytes) -> None:
        """Write one, which others see whole or not at all.

        Raises:
            ArtifactError: It cannot be written.
        """
        partial = self._path(f"{name}-{secrets.token_hex(8)}{PARTIAL}")
        with _speaking_of(name), self._dropping(partial):
            self._files.makedirs(self._root, exist_ok=True)
            self._write_pieces(partial, (data,))
            self._files.mv(partial, self._path(name))

    def tenants(self) -> list[str]:
        """Tenants that have files."""
        return self._names_in(self._root)

    def folders(self, tenant: str) -> list[str]:
        """Folders of a tenant: its jobs', and its inputs'."""
        return self._names_in(self._path(tenant))

    def files(self, tenant: str, folder: str) -> list[StoredFile]:
        """What lies in a folder; nothing for one that is not there."""
        with _speaking_of(folder):
            rows = [row for row in self._look(self._path(tenant, folder)) if row["type"] == "file"]
        return [self._stored(tenant, folder, row) for row in rows]

    def used_bytes(self, tenant: str, folder: str | None = None) -> int:
        """Bytes of a tenant's files, or of those in one folder."""
        folders = self.folders(tenant) if folder is None else [folder]
        return sum(file.size_bytes for one in folders for file in self.files(tenant, one))

    def delete(self, tenant: str, folder: str, name: str) -> None:
        """Delete a file; harmless where it is not there."""
        with contextlib.suppress(GoneError), _speaking_of(name):
            self._files.rm_file(self._path(tenant, folder, name))

    def delete_folder(self, tenant: str, folder: str) -> int:
        """Delete a job's files; returns how many bytes they had."""
        freed = self.used_bytes(tenant, folder)
        with contextlib.suppress(GoneError), _speaking_of(folder):
            self._files.rm(self._path(tenant, folder), recursive=True)
        return freed

    def _path(self, *names: str) -> str:
        return "/".join([self._root, *(check_name("file", name) for name in names)])

    def _path_of(self, artifact: Artifact) -> str:
        return self._path(artifact.tenant, artifact.folder, artifact.name)

    def _write_pieces(self, path: str, pieces: Iterable[bytes]) -> tuple[int, str]:
        size, digest = 0, hashlib.sha256()
        with self._files.open(path, "wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
                size += len(piece)
            if self._is_local:
                file.flush()
                os.fsync(file.fileno())
        return size, digest.hexdigest()

    def _settle(self, tenant: str, folder: str) -> None:
        """Have names outlive a power cut, too."""
        if self._is_local:
            for path in (self._path(tenant, folder), self._path(tenant), self._root):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    @contextlib.contextmanager
    def _dropping(self, partial: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with contextlib.suppress(Exception):  # the first error counts
                self._files.rm_file(partial)
            raise

    def _names_in(self, path: str) -> list[str]:
        with _speaking_of(path):
            rows = [row for row in self._look(path) if row["type"] == "directory"]
        names = (row["name"].rstrip("/").rpartition("/")[2] for row in rows)
        return sorted(name for name in names if is_name(name))  # others are not ours, such as `lost+found`

    def _look(self, path: str) -> list[dict[str, Any]]:
        self._files.invalidate_cache(path)
        with contextlib.suppress(FileNotFoundError):
            return list(self._files.ls(path, detail=True))
        return []

    def _stored(self, tenant: str, folder: str, row: dict[str, Any]) -> StoredFile:
        name = row["name"].rpartition("/")[2]
        written = next((row[key] for key in ("mtime", "LastModified", "last_modified", "created") if key in row), 0.0)
        seconds = (
            written if isinstance(written, int | float) else written.replace(tzinfo=written.tzinfo or UTC).timestamp()
        )
        return StoredFile(
            tenant=tenant, folder=folder, name=name, size_bytes=int(row["size"]), modified_s=float(seconds)
        )


@contextlib.contextmanager
def _speaking_of(what: str) -> Iterator[None]:
    name = what.rpartition("/")[2]
    try:
        yield
    except FileNotFoundError:
        raise GoneError(f"file '{name}' is not there any more") from None
    except OSError as error:
        raise ArtifactError(f"file '{name}' cannot be read or written: {error.strerror or error}") from error


def _without_secrets(url: str) -> str:
    return url.rpartition("@")[2] if "@" in url else url
