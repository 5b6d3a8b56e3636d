"""Uploads that are broken at random, and places that cannot take them: a precise status, and nothing is left."""

import random

import grpc
import httpx2
import pytest

from reelray.proto.v1 import video_spec_pb2 as wire
from tests.support.asset_calls import AssetCaller, parts_of, png, tensors, wav
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import connect, serve
from tests.support.http_gateway import picture_entry, serve_http
from tests.support.render_calls import Caller, refusal, submission, video

FILES = (png(), wav(300), tensors(50))
FORM = (
    b'--b\r\ncontent-disposition: form-data; name="keep_seconds"\r\n\r\n60\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\n' + png() + b"\r\n--b--\r\n"
)


def changed(data, rng):
    """Some bytes of it other, gone, or twice."""
    broken = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at, count = rng.randrange(len(broken) + 1), rng.randrange(1, 20)
        broken[at : at + count] = rng.choice((b"", rng.randbytes(count), bytes(broken[at : at + count]) * 2))
    return bytes(broken)


def broken_stream(rng):
    """Messages of an upload as bytes: some of them mutated, left out, twice, or in another order."""
    parts = [part.SerializeToString() for part in parts_of(rng.choice(FILES), piece=rng.choice((7, 100, 10_000)))]
    for _ in range(rng.randrange(1, 3)):
        way, at = rng.randrange(5), rng.randrange(len(parts))
        if way == 0:
            parts[at] = changed(parts[at], rng)
        elif way == 1:
            parts[at : at + 1] = []
        elif way == 2:
            parts.insert(at, parts[rng.randrange(len(parts))])
        elif way == 3:
            rng.shuffle(parts)
        else:
            parts[at] = rng.randbytes(rng.randrange(60))
        parts = parts or [b""]
    return parts


def test_broken_uploads_have_a_precise_status(shelf_address, shelf, hands):
    rng, refused = random.Random(5), []
    with connect(shelf_address) as channel:
        call = channel.stream_unary("/reelray.v1.Assets/Upload")
        for _ in range(200):
            try:
                call(iter(broken_stream(rng)), timeout=20)
            except grpc.RpcError as failed:
                refused.append((failed.code(), "Traceback" in failed.details()))
        assert len(refused) > 100  # others are known, or well in spite of it
        assert set(refused) == {(grpc.StatusCode.INVALID_ARGUMENT, False)}
        kept = AssetCaller(channel).list()
    names = [path.stat().st_size for path in shelf.files.glob("default/assets/*")]
    assert len(names) == len(kept) <= 3
    connection = hands.store.connection
    assert hands.do(connection.command("ZCARD", connection.key("uploads", "default"))) == 0
    assert int(hands.do(connection.command("GET", connection.key("asset-bytes", "default"))) or 0) == sum(names)


def test_broken_forms_have_a_precise_status(shelf):
    rng, seen = random.Random(6), set()
    with serve_http(shelf) as served, httpx2.Client(base_url=served.url, timeout=20) as http:
        for _ in range(200):
            headers = {"content-type": "multipart/form-data; boundary=b"}
            seen.add(http.post("/v1/assets", content=changed(FORM, rng), headers=headers).status_code)
        for content_type in ("multipart/form-data", "multipart/form-data; boundary=" + "b" * 99, "text/plain", "\xff"):
            answer = http.post("/v1/assets", content=FORM, headers={"content-type": content_type.encode("latin-1")})
            assert answer.status_code == 400
        assert len(http.get("/v1/assets?limit=100").json()["data"]) == len(list(shelf.files.glob("default/assets/*")))
    assert {400, 415} <= seen <= {200, 201, 400, 415}


@pytest.mark.parametrize("place", ["default", "default/assets"])
def test_a_place_that_takes_nothing_is_a_retry_hint_and_no_path(shelf_address, shelf, hands, place):
    (shelf.files / place).parent.mkdir(parents=True, exist_ok=True)
    (shelf.files / place).write_text("not a folder")
    with connect(shelf_address) as channel:
        assets = AssetCaller(channel)
        code, text, reason, _, hint = refusal(lambda: assets.upload(png()))
        assert (code, reason, hint) == (grpc.StatusCode.UNAVAILABLE, "artifact_failed", True)
        assert str(shelf.files) not in text
        (shelf.files / place).unlink()
        assert assets.upload(png()).size_bytes == len(png())
    connection = hands.store.connection
    assert hands.do(connection.command("ZCARD", connection.key("uploads", "default"))) == 0


def test_a_file_that_somebody_took_away_is_as_unknown_as_none(shelf):
    with serve(FakeEngine(), entries=[picture_entry()], shelf=shelf) as address, connect(address) as channel:
        asset = AssetCaller(channel).upload(png())
        for path in shelf.files.glob("default/assets/*"):
            path.unlink()
        condition = wire.Condition(kind=wire.Condition.FIRST_FRAME, asset_id=asset.id)
        code, _, reason, *_ = refusal(
            lambda: Caller(channel).Submit(submission(video_spec=video(conditions=[condition])))
        )
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "unknown_asset")
        AssetCaller(channel).delete(asset.id)
        assert AssetCaller(channel).upload(png()).id == asset.id
