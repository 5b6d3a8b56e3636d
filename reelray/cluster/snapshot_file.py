"""Snapshots as files: a header that says what it is, the parts, and a digest over all of it.

Layout: `MAGIC`, version (4 bytes, little endian), bytes of the header (8), header (JSON), parts one after the other,
SHA-256 of everything before.
"""

import hashlib
import json
import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from reelray.cluster.plain_json import from_plain, to_plain
from reelray.cluster.video_output import output_errors
from reelray.proto.errors import SnapshotError
from reelray.proto.request import RenderRequest
from reelray.proto.snapshot import Snapshot, SnapshotKind

MAGIC = b"REELSNAP"
VERSION = 1
_LEAD = struct.Struct("<8sIQ")
_DIGEST_BYTES = hashlib.sha256().digest_size
_PIECE_BYTES = 1 << 24
_COUNTS = ("windows", "decoded", "chunks_begun", "frame")


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotFile:
    """What a file holds.

    Args:
        snapshot: The stream.
        model: Name or folder of the model that made it, which may have moved.
        fps: Frames per second of the video.
    """

    snapshot: Snapshot
    model: str
    fps: Fraction


def write_snapshot(path: Path, file: SnapshotFile) -> None:
    """Write a file; what was there is replaced in one step, and stays if anything fails.

    Raises:
        OutputError: It cannot be written.
    """
    with output_errors(path), _replacing(path) as target:
        for piece in snapshot_pieces(file):
            target.write(piece)


def snapshot_pieces(file: SnapshotFile) -> Iterator[bytes]:
    """The bytes of a file, some at a time."""
    snapshot = file.snapshot
    header = {
        "kind": snapshot.kind,
        "lossy": snapshot.is_lossy,
        "digest": snapshot.digest,
        "model": file.model,
        "fps": str(file.fps),
        **{name: getattr(snapshot, name) for name in _COUNTS},
        "request": to_plain(snapshot.request),
        "parts": [[name, len(data)] for name, data in snapshot.parts.items()],
    }
    text = json.dumps(header).encode()
    digest = hashlib.sha256()
    for data in (_LEAD.pack(MAGIC, VERSION, len(text)), text, *snapshot.parts.values()):
        digest.update(data)
        yield data
    yield digest.digest()


def read_snapshot(path: Path) -> SnapshotFile:
    """Read a file.

    Raises:
        SnapshotError: It is missing, no snapshot, one of another version, cut off or damaged.
    """
    try:
        with path.open("rb") as source:
            return parse_snapshot(str(path), source)
    except OSError as error:
        raise SnapshotError(f"snapshot '{path}' cannot be read: {error.strerror or error}") from None


def parse_snapshot(path: str, source: BinaryIO) -> SnapshotFile:
    """Read a file that is open.

    Args:
        path: Its name, for messages.
        source: The file, at its beginning.

    Raises:
        SnapshotError: As for `read_snapshot`.
    """
    lead = source.read(_LEAD.size)
    if lead[: len(MAGIC)] != MAGIC:
        raise SnapshotError(f"'{path}' is no snapshot of a stream")
    if len(lead) < _LEAD.size:
        raise SnapshotError(f"snapshot '{path}' is cut off")
    _, version, header_bytes = _LEAD.unpack(lead)
    if version != VERSION:
        raise SnapshotError(f"snapshot '{path}' has version {version}; this build reads version {VERSION}")
    _check_digest(path, source)
    source.seek(_LEAD.size)
    try:
        header = json.loads(source.read(header_bytes))
        return _as_file(header, {name: source.read(length) for name, length in header["parts"]})
    except (ValueError, KeyError, TypeError) as error:
        # The digest is right, so another build wrote it, of which this one does not know all.
        what = " ".join(str(error).split())
        raise SnapshotError(f"snapshot '{path}' was written by another build of reelray: {what}") from None


def _check_digest(path: str, source: BinaryIO) -> None:
    """Refuse a file that is cut off or damaged, before anything of it is used."""
    digest, left = hashlib.sha256(), source.seek(0, os.SEEK_END) - _DIGEST_BYTES
    source.seek(0)
    while left > 0 and (piece := source.read(min(left, _PIECE_BYTES))):
        digest.update(piece)
        left -= len(piece)
    if source.read(_DIGEST_BYTES) != digest.digest():
        raise SnapshotError(f"snapshot '{path}' is cut off or damaged: its digest is wrong")


def _as_file(header: dict[str, Any], parts: dict[str, bytes]) -> SnapshotFile:
    snapshot = Snapshot(
        kind=SnapshotKind(header["kind"]),
        digest=header["digest"],
        request=from_plain(RenderRequest, header["request"]),
        parts=parts,
        **{name: int(header[name]) for name in _COUNTS},
    )
    return SnapshotFile(snapshot=snapshot, model=header["model"], fps=Fraction(header["fps"]))


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file under another name, which takes this one once it is complete."""
    final = Path(os.path.realpath(path))
    partial = final.parent / f".reelray-{secrets.token_hex(6)}.part"
    try:
        with partial.open("xb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        partial.replace(final)
    finally:
        with suppress(OSError):
            partial.unlink()
