"""Files of jobs: in a folder, and in a file system that is none."""

import hashlib
import itertools
import os
import secrets

import pytest

from reelray.cluster.renders.artifact import Artifact
from reelray.cluster.renders.artifacts import PIECE_BYTES, Artifacts
from reelray.proto.errors import ArtifactError, GoneError, InputError

DATA = bytes(range(256)) * 40


@pytest.fixture(params=["folder", "memory"])
def artifacts(request, tmp_path):
    return Artifacts(tmp_path / "renders" if request.param == "folder" else f"memory://{secrets.token_hex(6)}")


def test_what_was_written_is_read_in_ranges(artifacts):
    written = artifacts.write("ann", "job-1", "unit-3", ".mp4", [DATA[:100], b"", DATA[100:]])
    digest = hashlib.sha256(DATA).hexdigest()
    assert written == Artifact(
        tenant="ann", folder="job-1", name=f"unit-3-{digest[:32]}.mp4", size_bytes=len(DATA), sha256=digest
    )
    assert artifacts.read(written) == DATA
    for begin, end in itertools.product((0, 1, 5000, len(DATA) - 1, len(DATA), len(DATA) + 9), repeat=2):
        assert artifacts.read(written, begin, end) == DATA[begin:end]
    with artifacts.opened(written) as file:
        file.seek(-7, os.SEEK_END)
        assert file.read() == DATA[-7:]


def test_pieces_are_small_and_complete(artifacts):
    data = os.urandom(2 * PIECE_BYTES + 5)
    written = artifacts.write("ann", "job-1", "a", ".bin", data)
    pieces = list(artifacts.pieces(written, 3))
    assert b"".join(pieces) == data[3:]
    assert max(map(len, pieces)) == PIECE_BYTES


def test_the_same_bytes_have_the_same_name(artifacts):
    first, second = (artifacts.write("ann", "job-1", "a", ".bin", DATA) for _ in range(2))
    assert first == second
    assert [file.name for file in artifacts.files("ann", "job-1")] == [first.name]


def test_folders_are_listed_counted_and_deleted(artifacts):
    assert artifacts.tenants() == artifacts.folders("ann") == artifacts.files("ann", "a") == []
    assert artifacts.delete_folder("ann", "a") == 0
    for tenant, folder, size in (("ann", "a", 10), ("ann", "b", 20), ("bob", "a", 40)):
        artifacts.write(tenant, folder, "x", ".bin", b"x" * size)
        artifacts.write(tenant, folder, "y", ".bin", b"y" * size)
    assert artifacts.tenants() == ["ann", "bob"]
    assert artifacts.folders("ann") == ["a", "b"]
    assert (artifacts.used_bytes("ann"), artifacts.used_bytes("ann", "b"), artifacts.used_bytes("bob")) == (60, 40, 80)
    assert artifacts.delete_folder("ann", "a") == 20
    assert artifacts.folders("ann") == ["b"]
    assert artifacts.used_bytes("bob") == 80


def test_a_deleted_file_is_gone(artifacts):
    written = artifacts.write("ann", "a", "x", ".bin", DATA)
    for _ in range(2):
        artifacts.delete("ann", "a", written.name)
    with pytest.raises(GoneError, match="not there any more"):
        artifacts.read(written)
    with pytest.raises(GoneError), artifacts.opened(written):
        pass


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "../bob", "a\\b/..", "/etc", "a\0b", ".hidden", "é", "a:b", "x" * 65]
)
def test_no_name_leads_out_of_its_folder(artifacts, name):
    secret = artifacts.write("bob", "a", "x", ".bin", DATA)
    for act in (
        lambda: artifacts.write(name, "a", "x", ".bin", b""),
        lambda: artifacts.write("ann", name, "x", ".bin", b""),
        lambda: artifacts.write("ann", "a", name, ".bin", b""),
        lambda: artifacts.write("ann", "a", "x", f"/{name}/x", b""),
        lambda: artifacts.files("ann", name),
        lambda: artifacts.delete("ann", "a", name),
        lambda: artifacts.delete_folder("ann", name),
        lambda: artifacts.delete_folder(name, "a"),
        lambda: Artifact(tenant=name, folder="a", name="x", size_bytes=1, sha256=secret.sha256),
        lambda: Artifact(tenant="ann", folder="a", name=name, size_bytes=1, sha256=secret.sha256),
    ):
        with pytest.raises(InputError):
            act()
    assert artifacts.read(secret) == DATA
    assert artifacts.tenants() in (["bob"], ["ann", "bob"])


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    artifacts = Artifacts(tmp_path)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        artifacts.write("ann", "a", "x", ".bin", DATA)
    monkeypatch.undo()

    def broken():
        yield DATA
        raise RuntimeError("the encoder broke")

    with pytest.raises(RuntimeError, match="the encoder"):
        artifacts.write("ann", "a", "x", ".bin", broken())
    assert artifacts.files("ann", "a") == []


def test_a_file_has_its_name_only_when_it_is_complete(artifacts):
    seen = []

    def pieces():
        yield DATA
        seen.extend(file.name for file in artifacts.files("ann", "a"))
        yield DATA

    written = artifacts.write("ann", "a", "x", ".bin", pieces())
    assert written.name not in seen
    assert all(name.endswith(".part") for name in seen)
    assert [file.name for file in artifacts.files("ann", "a")] == [written.name]


def test_an_unknown_protocol_is_refused_without_its_secrets():
    with pytest.raises(InputError, match="host/renders") as caught:
        Artifacts("nothing://ann:hunter2@host/renders")
    assert "hunter2" not in str(caught.value)
