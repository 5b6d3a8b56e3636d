"""Conditions that name where their bytes are: assets and addresses, for videos that are waited for and for renders."""

import asyncio
import hashlib
import threading
import time
from dataclasses import replace

import grpc
import pytest

from reelray.cluster.assets.room import Announced, AssetRoom
from reelray.cluster.assets.sources import AT_ONCE
from reelray.cluster.assets.sweeping import ORPHAN_S, sweep_assets
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.server import Guard
from reelray.cluster.outbound.allow_list import AllowList, Reach
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.retention import RetentionRule, sweep_files
from reelray.cluster.renders.spec import RenderSpec
from reelray.cluster.store.names import JobRef
from reelray.proto.v1 import video_spec_pb2 as wire
from reelray.proto.v1 import videos_pb2, videos_pb2_grpc
from tests.support.asset_calls import GREEN, AssetCaller, png, wav
from tests.support.fake_engine import FakeEngine, fake_entry
from tests.support.gateway import connect, serve
from tests.support.http_gateway import picture_entry
from tests.support.render_calls import Caller, refusal, submission, video
from tests.support.waiting import wait_until
from tests.support.web import start_web

STATUS = grpc.StatusCode
RGB = bytes(GREEN) * (96 * 64)
KEYS = {"a-token-of-ann-here": "ann", "a-token-of-bob-here": "bob"}


@pytest.fixture
def web():
    with start_web() as web:
        web.page("/open/green.png", png())
        yield web


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def channel(shelf, web, engine):
    reach = Reach(urls=AllowList.of([f"{web.url}/open"]))
    with (
        serve(engine, entries=[picture_entry()], shelf=replace(shelf, reach=reach)) as address,
        connect(address) as channel,
    ):
        yield channel


def wish(kind=wire.Condition.FIRST_FRAME, **source):
    return video(size={"width": 96, "height": 64}, conditions=[wire.Condition(kind=kind, **source)])


def generate(channel, wanted):
    return list(videos_pb2_grpc.VideosStub(channel).Generate(videos_pb2.GenerateRequest(video=wanted), timeout=20))


def spec_of(hands, render):
    job = hands.do(hands.store.jobs.get(JobRef(tenant=render.tenant, id=render.id)))
    return RenderSpec.from_json(job.spec)


def test_videos_begin_with_an_asset_or_with_what_lies_at_an_address(channel, web, engine):
    asset = AssetCaller(channel).upload(png())
    generate(channel, wish(asset_id=asset.id))
    generate(channel, wish(url=f"{web.url}/open/green.png"))
    assert [request.image for request in engine.requests] == [RGB, RGB]


def test_a_render_has_what_it_needs_of_an_asset_that_is_gone(channel, web, shelf, hands):
    assets, caller = AssetCaller(channel), Caller(channel)
    asset = assets.upload(png())
    one = caller.submit(video_spec=wish(asset_id=asset.id), idempotency_key="k")
    assert caller.submit(video_spec=wish(asset_id=asset.id), idempotency_key="k").id == one.id
    other = caller.submit(video_spec=wish(url=f"{web.url}/open/green.png"))
    assets.delete(asset.id)
    del web.pages["/open/green.png"]
    files, later = Artifacts(shelf.files), time.time() + 10 * 86_400
    hands.do(sweep_assets(hands.store, files, hands.archive.asset_rule, now_s=later))
    hands.do(sweep_files(hands.store, files, RetentionRule(), now_s=later))
    for render in (one, other):
        assert files.read(spec_of(hands, render).picture) == RGB
    assert refusal(lambda: caller.submit(video_spec=wish(asset_id=asset.id)))[:3:2] == (
        STATUS.NOT_FOUND,
        "unknown_asset",
    )


def test_what_cannot_be_had_is_refused_precisely(channel, web):
    assets = AssetCaller(channel)
    sound = assets.upload(wav())
    web.page("/open/page.html", b"<html>")
    wrong = [
        ({"asset_id": "f" * 64}, STATUS.NOT_FOUND, "unknown_asset"),
        ({"asset_id": "../../store-id"}, STATUS.NOT_FOUND, "unknown_asset"),
        ({"asset_id": sound.id}, STATUS.INVALID_ARGUMENT, "wrong_media"),
        ({"url": f"{web.url}/secret"}, STATUS.PERMISSION_DENIED, "url_not_allowed"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, STATUS.PERMISSION_DENIED, "url_not_allowed"),
        ({"url": "file:///etc/passwd"}, STATUS.INVALID_ARGUMENT, "invalid_input"),
        ({"url": f"{web.url}/open/none"}, STATUS.FAILED_PRECONDITION, "fetch_failed"),
        ({"url": f"{web.url}/open/page.html"}, STATUS.INVALID_ARGUMENT, "invalid_input"),
    ]
    stub = videos_pb2_grpc.VideosStub(channel)
    for source, code, reason in wrong:
        for call in (
            lambda source=source: Caller(channel).Submit(submission(video_spec=wish(**source))),
            lambda source=source: stub.Generate(videos_pb2.GenerateRequest(video=wish(**source)), timeout=20),
        ):
            assert refusal(call)[:3:2] == (code, reason), source
    assert "/secret" not in web.asked


def test_who_leaves_does_not_make_room_for_more_fetches_than_there_are_places(channel, web):
    go, here, most = threading.Event(), [], []

    def slow(handler):
        here.append(handler)
        most.append(len(here))
        go.wait(20)
        here.remove(handler)
        page(handler)

    page = web.pages["/open/green.png"]
    web.pages["/open/slow.png"] = slow
    stub = videos_pb2_grpc.VideosStub(channel)
    asked = videos_pb2.GenerateRequest(video=wish(url=f"{web.url}/open/slow.png"))
    for count in range(AT_ONCE):
        call = stub.Generate(asked, timeout=20)
        wait_until(lambda count=count: len(most) > count)
        call.cancel()
    waits = stub.Generate(asked, timeout=20)
    generate(channel, wish(asset_id=AssetCaller(channel).upload(png()).id))  # another line than theirs
    assert len(most) == AT_ONCE
    go.set()
    assert [event.WhichOneof("event") for event in waits][-1] == "done"
    assert max(most) == AT_ONCE


@pytest.mark.parametrize("kind", ["VIDEO", "MASK", "AUDIO", "CONTROL", "LAST_FRAME", "REFERENCE_IMAGE"])
def test_kinds_that_no_model_takes_name_the_model_before_anything_is_looked_for(channel, web, kind):
    number = wire.Condition.Kind.Value(kind)
    for source in ({"asset_id": "f" * 64}, {"url": f"{web.url}/open/green.png"}, {"inline": b"x"}):
        code, text, *_ = refusal(
            lambda source=source: Caller(channel).Submit(submission(video_spec=wish(number, **source)))
        )
        assert code == STATUS.UNIMPLEMENTED
        assert f"model 'fake' takes no condition {kind}" in text
    assert web.asked == []


def test_another_tenants_asset_begins_no_video(shelf, engine):
    guard = Guard(callers=Callers(KEYS))
    with (
        serve(engine, entries=[picture_entry()], guard=guard, shelf=shelf) as address,
        connect(address) as channel,
    ):
        ann, bob = KEYS
        asset = AssetCaller(channel, ann).upload(png())
        found = refusal(lambda: Caller(channel, bob).Submit(submission(video_spec=wish(asset_id=asset.id))))
        none = refusal(lambda: Caller(channel, bob).Submit(submission(video_spec=wish(asset_id="f" * 64))))
        assert found[0] == STATUS.NOT_FOUND
        assert found[1].replace(asset.id, "") == none[1].replace("f" * 64, "")
        assert Caller(channel, ann).submit(video_spec=wish(asset_id=asset.id)).tenant == "ann"


def test_a_server_that_keeps_nothing_says_so(engine):
    with serve(engine, entries=[picture_entry()]) as address, connect(address) as channel:
        stub = videos_pb2_grpc.VideosStub(channel)
        for source, code in (
            ({"asset_id": "f" * 64}, STATUS.UNIMPLEMENTED),
            ({"url": "https://example.com/x.png"}, STATUS.PERMISSION_DENIED),
        ):
            asked = videos_pb2.GenerateRequest(video=wish(**source))
            assert refusal(lambda asked=asked: stub.Generate(asked, timeout=20))[0] == code


def test_what_nobody_needs_is_swept_away(shelf, hands, shelf_address):
    files, now_s = Artifacts(shelf.files), time.time()
    with connect(shelf_address) as channel:
        assets = AssetCaller(channel)
        old, kept = (assets.upload(wav(count)) for count in (1000, 500))
        connection = hands.store.connection
        hands.do(connection.command("HSET", connection.key("asset", "default", old.id), "expires_ms", 1))
        hands.do(connection.command("ZADD", connection.key("asset-ends", "default"), 1, old.id))
        assert refusal(lambda: assets.get(old.id))[0] == STATUS.NOT_FOUND
        assert assets.list() == [kept.id]
        files.write("default", "assets", "a-of-a-crash", ".asset", b"left")
        rule = hands.archive.asset_rule

        def sweep(rule, later_s):
            return hands.do(sweep_assets(hands.store, files, rule, now_s=now_s + later_s))

        hands.do(sweep_files(hands.store, files, RetentionRule(), now_s=now_s + 10 * 86_400))  # that of renders
        assert sweep(rule, 10) == 0  # an upload may be about to be known
        assert sweep(rule, ORPHAN_S + 60) == old.size_bytes + 4
        assert [path.stat().st_size for path in shelf.files.glob("default/assets/*")] == [kept.size_bytes]
        assert assets.get(kept.id) == kept
        assert assets.upload(wav(1000)).id == old.id  # the room is there again
        assert sweep(replace(rule, most_bytes=1100), ORPHAN_S + 60) == kept.size_bytes  # what expires first
        assert assets.list() == [old.id]


def test_the_same_file_that_comes_twice_at_once_is_kept_once(shelf, hands):
    data = png()

    async def pieces():
        for at in range(0, len(data), 50):
            await asyncio.sleep(0)
            yield data[at : at + 50]

    async def both():
        room = AssetRoom(hands.archive)
        said = Announced(tenant="ann", size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        return await asyncio.gather(*(room.take(said, pieces()) for _ in range(3)))

    found = hands.do(both())
    assert sorted(fresh for _, fresh in found) == [False, False, True]
    assert len({asset.file for asset, _ in found}) == 1
    assert [path.read_bytes() for path in shelf.files.glob("ann/assets/*")] == [data]


def test_models_of_text_alone_take_no_picture(shelf):
    with serve(FakeEngine(), entries=[fake_entry()], shelf=shelf) as address, connect(address) as channel:
        asset = AssetCaller(channel).upload(png())
        code, text, *_ = refusal(lambda: Caller(channel).Submit(submission(video_spec=wish(asset_id=asset.id))))
    assert (code, "takes no condition FIRST_FRAME; it takes none" in text) == (STATUS.UNIMPLEMENTED, True)
