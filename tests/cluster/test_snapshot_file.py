"""Snapshots as files."""

import hashlib
import json
import os
from fractions import Fraction

import pytest

from reelray.cluster.snapshot_file import SnapshotFile, read_snapshot, write_snapshot
from reelray.proto.errors import OutputError, SnapshotError
from reelray.proto.snapshot import Snapshot, SnapshotKind
from tests.support.requests import make_request

FILE = SnapshotFile(
    snapshot=Snapshot(
        kind=SnapshotKind.QUICK,
        digest="0123abcd",
        request=make_request("a", live=True),
        windows=7,
        decoded=3,
        chunks_begun=2,
        frame=13,
        parts={"chunk": b"abc", "history.0": b"", "clean.4": bytes(range(256))},
    ),
    model="/models/x",
    fps=Fraction(30000, 1001),
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.snap"
    write_snapshot(path, FILE)
    return path


def seal(data):
    """As if another build had written it."""
    return data + hashlib.sha256(data).digest()


def test_what_was_written_is_read(path):
    assert read_snapshot(path) == FILE
    assert [one.name for one in path.parent.iterdir()] == ["a.snap"]


def test_every_byte_counts(path):
    data = path.read_bytes()
    for place in [*range(40), *range(40, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(SnapshotError) as caught:
            read_snapshot(path)
        assert "a.snap" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_that_is_cut_off_is_refused(path):
    data = path.read_bytes()
    for length in [0, 4, 8, 12, 19, 20, 21, 100, len(data) - 33, len(data) - 32, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(SnapshotError, match=r"cut off|no snapshot"):
            read_snapshot(path)
    path.write_bytes(data + b"x")
    with pytest.raises(SnapshotError, match="damaged"):
        read_snapshot(path)


def test_other_files_and_versions_are_refused(path, tmp_path):
    with pytest.raises(SnapshotError, match="No such file"):
        read_snapshot(tmp_path / "b.snap")
    with pytest.raises(SnapshotError, match="directory"):
        read_snapshot(tmp_path)
    (tmp_path / "c.mp4").write_bytes(b"\0" * 100)
    with pytest.raises(SnapshotError, match="is no snapshot"):
        read_snapshot(tmp_path / "c.mp4")
    data = path.read_bytes()[:-32]
    path.write_bytes(seal(data[:8] + (2).to_bytes(4, "little") + data[12:]))
    with pytest.raises(SnapshotError, match="has version 2; this build reads version 1"):
        read_snapshot(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("kind", "loose"), ("request", {}), ("frame", None), ("parts", 3), ("fps", "x"), ("digest", ...)],
)
def test_a_header_of_another_build_is_refused(path, name, value):
    data = path.read_bytes()[:-32]
    length = int.from_bytes(data[12:20], "little")
    header = json.loads(data[20 : 20 + length])
    if value is ...:
        del header[name]
    else:
        header[name] = value
    text = json.dumps(header).encode()
    path.write_bytes(seal(data[:12] + len(text).to_bytes(8, "little") + text + data[20 + length :]))
    with pytest.raises(SnapshotError, match="another build"):
        read_snapshot(path)


def test_what_cannot_be_written_leaves_what_was_there(path, monkeypatch):
    before = path.read_bytes()
    with pytest.raises(OutputError, match="does not exist"):
        write_snapshot(path.parent / "no" / "a.snap", FILE)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="disk is full"):
        write_snapshot(path, FILE)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["a.snap"]
