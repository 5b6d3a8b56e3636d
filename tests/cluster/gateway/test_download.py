"""`Renders.Download`: any range, also of a file that grows."""

import random
import shutil

import grpc
import pytest

from tests.support.archive import in_background
from tests.support.render_calls import refusal

PARTS = [b"a" * 5, b"b" * 700_000, b"c" * 2_300_000, b"d"]
WHOLE = b"".join(PARTS)


@pytest.fixture
def made(caller, hands):
    render = caller.submit()
    hands.claim()
    for part in PARTS:
        hands.commit(part)
    hands.finish()
    return render.id


def test_any_range_is_that_of_the_file(caller, made):
    assert caller.download(made) == WHOLE
    draw = random.Random(7)
    for _ in range(20):
        offset, length = draw.randrange(len(WHOLE)), draw.choice([1, 9, 800_000, 0, len(WHOLE)])
        assert caller.download(made, offset=offset, length=length) == WHOLE[offset:][: length or None]
    assert caller.download(made, offset=len(WHOLE)) == b""
    assert {chunk.total_bytes for chunk in caller.downloading(made)} == {len(WHOLE)}


@pytest.mark.parametrize("offset", [len(WHOLE) + 1, 2**64 - 1])
def test_behind_the_end_is_out_of_range(caller, made, offset):
    code, text, reason, _, retry = refusal(lambda: caller.downloading(made, offset=offset, length=5))
    assert (code, reason, retry) == (grpc.StatusCode.OUT_OF_RANGE, "out_of_range", False)
    assert f"the file has {len(WHOLE)} bytes" in text


def test_what_is_there_now(caller, hands):
    render = caller.submit()
    assert caller.download(render.id) == b""
    hands.claim()
    hands.commit(b"head")
    assert caller.download(render.id, offset=1) == b"ead"
    assert caller.download(render.id, offset=100) == b""
    chunk = next(caller.downloading(render.id))
    assert not chunk.HasField("total_bytes")


def test_a_file_that_grows_is_followed_to_its_end(caller, hands):
    render, got = caller.submit(), []
    reading = caller.downloading(render.id, follow=True)
    follower = in_background(lambda: got.extend(chunk.data for chunk in reading))
    hands.claim()
    for part in PARTS:
        hands.commit(part)
    hands.finish()
    follower.join(20)
    assert b"".join(got) == WHOLE


def test_a_range_that_is_followed_ends_where_it_was_asked_to(caller, hands):
    render = caller.submit()
    hands.claim()
    hands.commit(b"0123")
    reading = caller.downloading(render.id, offset=2, length=4, follow=True)
    assert next(reading).data == b"23"
    hands.commit(b"4567")
    assert [chunk.data for chunk in reading] == [b"45"]


def test_a_render_that_fails_leaves_its_follower_with_what_there_was(caller, hands):
    render = caller.submit()
    hands.claim()
    hands.commit(b"head")
    reading = caller.downloading(render.id, follow=True)
    assert next(reading).data == b"head"
    hands.fail("no such colour")
    code, text, reason, _, retry = refusal(lambda: reading)
    assert (code, reason, retry) == (grpc.StatusCode.FAILED_PRECONDITION, "never_made", False)
    assert "failed after 4 bytes: no such colour" in text
    assert caller.download(render.id, length=4) == b"head"


def test_files_that_are_gone(caller, shelf, made):
    shutil.rmtree(shelf.files)
    code, text, reason, *_ = refusal(lambda: caller.downloading(made))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "gone")
    assert str(shelf.files) not in text


def test_files_that_cannot_be_read_are_named_to_nobody(caller, shelf, made):
    file = next(shelf.files.rglob("video*"))
    file.unlink()
    file.mkdir()
    code, text, reason, _, retry = refusal(lambda: caller.downloading(made))
    assert (code, reason, retry) == (grpc.StatusCode.UNAVAILABLE, "artifact_failed", True)
    assert file.name not in text


def test_parts_that_become_one_file_under_a_reader(caller, hands):
    parts = [bytes([n]) * 2_000_000 for n in range(12)]
    render = caller.submit()
    hands.claim()
    for part in parts:
        hands.commit(part)
    reading = caller.downloading(render.id)
    first = next(reading)
    hands.finish()
    assert first.data + b"".join(chunk.data for chunk in reading) == b"".join(parts)
