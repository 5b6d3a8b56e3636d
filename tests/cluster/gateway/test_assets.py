"""`Assets` on a real server: what is kept, what is refused, and whose it is."""

import hashlib
import threading
import zlib
from dataclasses import replace

import grpc
import pytest

from reelray.cluster.assets.asset import AssetRule
from reelray.cluster.assets.catalog import Catalog, NewAsset
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.server import Guard
from reelray.cluster.renders.artifact import Artifact
from reelray.proto.v1 import assets_pb2
from tests.support.asset_calls import AssetCaller, parts_of, png, tensors, wav
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import connect, serve
from tests.support.render_calls import refusal
from tests.support.waiting import wait_until

KEYS = {"a-token-of-ann-here": "ann", "a-token-of-bob-here": "bob"}
STATUS = grpc.StatusCode


@pytest.fixture
def assets(shelf_address):
    with connect(shelf_address) as channel:
        yield AssetCaller(channel)


def files_of(shelf, tenant="default"):
    return sorted(path for path in (shelf.files / tenant / "assets").glob("*"))


@pytest.mark.parametrize(
    ("data", "media_type"), [(png(), "image/png"), (wav(), "audio/wav"), (tensors(), "application/safetensors")]
)
def test_what_was_uploaded_is_kept_under_its_digest(assets, shelf, data, media_type):
    asset = assets.upload(data, media_type=media_type)
    assert asset.id == hashlib.sha256(data).hexdigest()
    assert (asset.tenant, asset.media_type, asset.size_bytes) == ("default", media_type, len(data))
    assert 0 < asset.expires.seconds - asset.created.seconds <= 7 * 86_400
    assert assets.get(asset.id) == asset
    assert [path.read_bytes() for path in files_of(shelf)] == [data]
    assets.delete(asset.id)
    assert files_of(shelf) == []
    for call in (assets.get, assets.delete):
        assert refusal(lambda call=call: call(asset.id))[:3:2] == (STATUS.NOT_FOUND, "unknown_asset")


def test_the_same_upload_costs_once_and_is_kept_longer(assets, shelf):
    first = assets.send(parts_of(png(), keep_seconds=100))
    again = assets.send(parts_of(png(), keep_seconds=500))
    assert (first.fresh, again.fresh) == (True, False)
    assert again.asset.id == first.asset.id
    assert again.asset.expires.seconds - first.asset.expires.seconds >= 399
    shorter = assets.upload(png(), keep_seconds=1)
    assert shorter.expires.seconds == again.asset.expires.seconds
    assert len(files_of(shelf)) == 1
    assert assets.list() == [first.asset.id]


def test_known_bytes_need_not_be_sent(assets):
    asset = assets.upload(png())

    def begin_only():
        yield next(parts_of(png()))
        threading.Event().wait(20)  # the answer comes all the same

    again = assets.send(begin_only())
    assert (again.fresh, again.asset.id) == (False, asset.id)


def test_lists_hold_every_asset_once_the_newest_first(assets):
    ids = [assets.upload(wav(count)).id for count in range(100, 107)]
    assert assets.list(size=3) == ids[::-1] == assets.list()


def bomb():
    """A PNG of a few bytes that says it has 64 million pixels."""
    data = bytearray(png())
    data[16:24] = (8000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def with_more(data, **said):
    yield from parts_of(data, **said)
    yield assets_pb2.UploadAssetRequest(data=b"more")


PNG = png()
WRONG = {
    "another digest": (lambda: parts_of(PNG, sha256="0" * 64), "bad_upload", "SHA-256"),
    "cut off": (lambda: parts_of(PNG, size_bytes=len(PNG) + 1), "bad_upload", f"{len(PNG)} of {len(PNG) + 1}"),
    "too much": (lambda: with_more(PNG), "bad_upload", "more came"),
    "no beginning": (lambda: iter(list(parts_of(PNG))[1:]), "bad_upload", "first message"),
    "nothing": (lambda: iter(()), "bad_upload", "first message"),
    "two beginnings": (lambda: iter([next(parts_of(PNG))] * 2), "bad_upload", "no data"),
    "no length": (lambda: parts_of(b""), "invalid_input", "size_bytes"),
    "no digest": (lambda: parts_of(PNG, sha256="../../etc/passwd"), "invalid_input", "64 hex digits"),
    "digest left out": (lambda: parts_of(PNG, sha256=""), "invalid_input", "sha256 is missing"),
    "too large": (lambda: parts_of(PNG, size_bytes=2**40), "too_large", "at most"),
    "a script": (lambda: parts_of(b"#!/bin/sh\nrm -rf /\n"), "wrong_media", "none of those"),
    "short": (lambda: parts_of(b"x"), "wrong_media", "none of those"),
    "said otherwise": (lambda: parts_of(PNG, media_type="video/mp4"), "wrong_media", "is image/png"),
    "bomb": (lambda: parts_of(bomb()), "wrong_media", "8000x8000"),
    "half a picture": (lambda: parts_of(PNG[:-40]), "wrong_media", "no picture"),
    "tensors beyond the end": (lambda: parts_of(tensors(data_offsets=[0, 99])), "wrong_media", "speaks of"),
    "tensors with a gap": (lambda: parts_of(tensors(data_offsets=[3, 16])), "wrong_media", "one after the other"),
    "another's tenant": (lambda: parts_of(PNG, tenant="../ann"), "invalid_input", "tenant"),
}


@pytest.mark.parametrize("name", WRONG)
def test_nothing_is_left_of_what_was_refused(assets, shelf, hands, name):
    parts, reason, text = WRONG[name]
    code, told, said, *_ = refusal(lambda: assets.send(parts()))
    assert (code, said) == (STATUS.INVALID_ARGUMENT, reason)
    assert text in told
    assert files_of(shelf) == []
    connection = hands.store.connection
    assert hands.do(connection.command("ZCARD", connection.key("uploads", "default"))) == 0
    assert assets.list() == []


def test_bytes_that_are_no_message_are_refused_precisely(shelf_address):
    with connect(shelf_address) as channel:
        call = channel.stream_unary("/reelray.v1.Assets/Upload")
        code, text, *_ = refusal(lambda: call(iter([b"\xff\xff\xff"]), timeout=20))
    assert code == STATUS.INVALID_ARGUMENT
    assert text == "a message of the upload is none of this call; was it sent by another version?"


def test_other_tenants_assets_are_as_unknown_as_none(shelf):
    with serve(FakeEngine(), guard=Guard(callers=Callers(KEYS)), shelf=shelf) as address, connect(address) as channel:
        ann, bob = (AssetCaller(channel, token) for token in KEYS)
        asset = ann.upload(png())
        for call in (bob.get, bob.delete):
            theirs, nones = (refusal(lambda i=i, call=call: call(i)) for i in (asset.id, "f" * 64))
            assert theirs[1].replace(asset.id, "") == nones[1].replace("f" * 64, "")
            assert theirs[0] == nones[0] == STATUS.NOT_FOUND
        assert bob.list() == []
        assert bob.upload(png()).tenant == "bob"  # the same bytes, and nothing tells that ann has them
        assert ann.get(asset.id) == asset
        code, text, *_ = refusal(lambda: bob.send(parts_of(png(), tenant="ann")))
        assert (code, "leave it out" in text) == (STATUS.INVALID_ARGUMENT, True)
        assert refusal(lambda: ann.get("../bob/" + "f" * 64))[0] == STATUS.NOT_FOUND


@pytest.fixture
def small(shelf):
    """A server where a tenant may have 3000 bytes, and upload twice at a time."""
    rule = AssetRule(most_bytes=3000, most_uploads=2, largest_bytes=2500)
    with serve(FakeEngine(), shelf=replace(shelf, asset_rule=rule)) as address, connect(address) as channel:
        yield AssetCaller(channel)


def held_back(data, go):
    """An upload whose last bytes wait."""
    *first, last = parts_of(data, piece=500)
    yield from first
    go.wait(20)
    yield last


def test_a_tenant_has_no_more_than_it_may_also_with_uploads_that_run(small, shelf, hands):
    first = small.upload(wav(1000))
    go, kept = threading.Event(), []
    upload = threading.Thread(target=lambda: kept.append(small.send(held_back(wav(1500), go))))
    upload.start()
    connection = hands.store.connection
    wait_until(lambda: hands.do(connection.command("ZCARD", connection.key("uploads", "default"))) == 1)
    code, _, reason, ids, _ = refusal(lambda: small.upload(wav(600)))
    assert (code, reason, ids["quota"]) == (STATUS.RESOURCE_EXHAUSTED, "quota_exceeded", "asset-bytes")
    small.upload(wav(100))
    go.set()
    upload.join(20)
    assert kept[0].fresh
    small.delete(first.id)
    small.upload(wav(600))
    assert refusal(lambda: small.upload(wav(2600)))[2] == "too_large"
    assert sum(path.stat().st_size for path in files_of(shelf)) <= 3000


def test_what_is_over_leaves_its_room_to_the_next(small, hands):
    connection = hands.store.connection
    catalog = Catalog(connection)

    async def fill():
        for n in range(150):
            new = NewAsset(tenant="default", id=f"{n:064x}", room_bytes=20, keep_s=60, token=f"t{n}")
            assert await catalog.begin(new, AssetRule()) is None
            file = Artifact(tenant="default", folder="assets", name=f"t{n}", size_bytes=20, sha256=new.id)
            await catalog.add(new, "audio/wav", file)

        for n in range(150):  # their time is over
            await connection.command("ZADD", connection.key("asset-ends", "default"), 1, f"{n:064x}")

    hands.do(fill())
    assert small.upload(wav(2000)).size_bytes > 2000


def test_who_leaves_in_the_middle_leaves_nothing(small, shelf, hands):
    connection, key = hands.store.connection, hands.store.connection.key("uploads", "default")
    calls = [small._stub.Upload.future(held_back(wav(1000 + n), threading.Event())) for n in range(2)]
    wait_until(lambda: hands.do(connection.command("ZCARD", key)) == 2)
    assert refusal(lambda: small.upload(wav(100)))[3]["quota"] == "uploads"
    for call in calls:
        call.cancel()
    wait_until(lambda: hands.do(connection.command("ZCARD", key)) == 0)
    wait_until(lambda: files_of(shelf) == [])
    small.upload(wav(2000))
