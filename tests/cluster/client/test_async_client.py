"""`reelray.AsyncClient`: what `reelray.Client` does, in asyncio."""

import asyncio
import gc
import hashlib
from contextlib import aclosing

import numpy as np
import pytest

import reelray
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.server import Guard
from reelray.proto.errors import (
    EndedError,
    EngineError,
    InputError,
    LateError,
    PromptError,
    SizeError,
    UnknownJobError,
    UnknownModelError,
)
from reelray.proto.events import Stage
from tests.support.asset_calls import png
from tests.support.conversing import open_tiny
from tests.support.cut_line import cut_line
from tests.support.fake_engine import FakeEngine, draw_frames
from tests.support.gateway import serve
from tests.support.waiting import wait_until

TOKEN = "a-token-of-length"
WISH = {"size": (48, 32), "fps": 16, "seed": 3}


def with_client(address, use, **how):
    """Run `use` with a client in a loop of its own, which is in nobody's way afterwards."""

    async def run():
        async with asyncio.timeout(60), reelray.AsyncClient(address, **how) as client:
            return await use(client)

    return asyncio.run(run())


def test_a_video_with_its_summary():
    engine, heard = FakeEngine(), []
    wish = {"seed": 3, "frames": 9, "size": (64, 48), "fps": 8, "on_progress": heard.append}
    with serve(engine) as address:
        video = with_client(address, lambda client: client.render("a disc", **wish))
    assert np.array_equal(video.frames, draw_frames(engine.requests[0]))
    assert (video.fps, video.summary.seed, video.summary.forwards) == (8.0, 3, 8)
    assert [p.done for p in heard if p.stage is Stage.DENOISE] == [1, 2, 3, 4]


def test_many_at_once_and_leaving_early():
    engine = FakeEngine(frame_delay_s=0.02)

    async def use(client):
        async def left():
            async with aclosing(client.render_stream("a disc", frames=401)) as frames:
                return (await anext(frames)).shape

        cancelled = asyncio.create_task(client.render("a disc", frames=401))
        shapes = await asyncio.gather(*(left() for _ in range(3)))
        cancelled.cancel()
        engines = await client.describe()
        # The other one may have waited for a place, and never have begun.
        await asyncio.to_thread(wait_until, lambda: engine.cancelled >= 3)
        whole = [frame async for frame in client.render_stream("a disc", frames=5)]
        return shapes, [one.model for one in engines], len(whole)

    with serve(engine) as address:
        assert with_client(address, use) == ([(64, 96, 3)] * 3, ["fake"], 5)


def test_errors_are_those_of_the_server():
    async def use(client):
        for wish, kind, text in [
            ({"frames": 18}, SizeError, "18 frames"),
            ({"model": "nope"}, UnknownModelError, "models here: fake"),
            ({"pace": 3.0}, InputError, "unknown option pace"),
        ]:
            with pytest.raises(kind, match=text):
                await client.render("a disc", **wish)
        with pytest.raises(PromptError, match="UTF-8"):
            await client.render("half \ud800")
        with pytest.raises(EngineError, match="lost") as raised:
            await client.render("a disc")
        assert raised.value.ids["rank"] == "1"
        await client.close()
        with pytest.raises(InputError, match="closed"):
            await client.describe()

    with serve(FakeEngine(error=EngineError("lost", ids={"rank": "1"}))) as address:
        with_client(address, use)


def test_tokens_and_nobody_there(monkeypatch):
    from reelray.cluster.client import connection

    with serve(FakeEngine(), guard=Guard(callers=Callers({TOKEN: "default"}))) as address:
        assert with_client(address, lambda client: client.describe(), token=TOKEN)
        with pytest.raises(InputError, match="wants a token"):
            with_client(address, lambda client: client.describe(), token="another")
    monkeypatch.setattr(connection, "CONNECT_S", 0.2)
    with pytest.raises(EngineError, match=r"no server answers at 127\.0\.0\.1:9"):
        with_client("127.0.0.1:9", lambda client: client.describe())


def test_renders_that_are_kept(shelf_address, hands):
    async def use(client):
        render = await client.submit("a disc", seed=3, frames=9, key="k")
        again = await client.submit("a disc", seed=3, frames=9, key="k")
        other = await client.submit("another", priority=-5)
        assert (render.state, again.id) == ("queued", render.id)
        watching = client.watch(render.id)
        seen = [await anext(watching)]
        await asyncio.to_thread(hands.claim)
        await asyncio.to_thread(hands.commit, b"0123456789")
        await asyncio.to_thread(hands.finish)
        seen += [event async for event in watching]
        assert [event.state for event in seen if event.state] == ["queued", "running", "done"]
        assert (await client.get(render.id)).bytes == 10
        assert b"".join([data async for data in client.download(render.id)]) == b"0123456789"
        assert b"".join([data async for data in client.download(render.id, offset=3, length=4)]) == b"3456"
        assert (await client.cancel(other.id)).state == "cancelled"
        assert [one.id async for one in client.list()] == [other.id, render.id]
        assert [one.id async for one in client.list("done")] == [render.id]
        with pytest.raises(UnknownJobError):
            await client.get("f" * 32)
        with pytest.raises(UnknownJobError):
            await anext(client.download("f" * 32))
        with pytest.raises(InputError, match="on_progress is for"):
            await client.submit("a disc", on_progress=print)

    with_client(shelf_address, use)


def test_events_and_bytes_go_on_where_the_line_was_cut(shelf_address, hands):
    with cut_line(shelf_address) as line:

        async def use(client):
            render = await client.submit("a disc")
            await asyncio.to_thread(hands.claim)
            await asyncio.to_thread(hands.commit, b"first ")
            watching, reading = client.watch(render.id), client.download(render.id, follow=True)
            seen, data = [await anext(watching) for _ in range(3)], [await anext(reading)]
            line.cut()
            await asyncio.to_thread(hands.commit, b"second")
            await asyncio.to_thread(hands.finish)
            seen += [event async for event in watching]
            data += [part async for part in reading]
            assert [event.number for event in seen] == [1, 2, 3, 4, 5]
            assert b"".join(data) == b"first second"

        with_client(line.address, use)


def test_files_that_are_kept(shelf_address, tmp_path):
    (tmp_path / "boat.png").write_bytes(png())

    async def use(client):
        assets = [await client.upload(tmp_path / "boat.png") for _ in range(2)]
        with pytest.raises(InputError, match="cannot be read"):
            await client.upload(tmp_path / "none.png")
        return assets

    first, again = with_client(shelf_address, use)
    assert (first.media_type, first.bytes, first.fresh, again.fresh) == ("image/png", len(png()), True, False)
    assert first.id == again.id == hashlib.sha256(png()).hexdigest()


@pytest.fixture(scope="module")
def served(tiny_stream):
    entry, engine = open_tiny(tiny_stream)
    with serve(engine, entries=[entry]) as address:
        yield address, engine
    engine.close()


async def rest_of(session):
    return [frames async for frames in session]


def test_a_conversation_is_that_of_a_session_here(served, known):
    async def use(client):
        heard = []
        async with client.converse("a red circle", frames=61, pace=20.0, on_progress=heard.append, **WISH) as session:
            parts = [await anext(session)]
            assert parts[0].flags.writeable
            await session.pause()
            assert await session.say("a blue star spins", at="3s") == 53 / 16
            assert await session.extend(0.5) == 69 / 16
            with pytest.raises(LateError, match="extend it first"):
                await session.say("x", at=100)
            with pytest.raises(InputError, match="has not been shown yet"):
                await session.seek(60)
            await session.pace(None)
            await session.resume()
            async with await session.fork() as other:
                begin, rest = other.position, np.concatenate(await rest_of(other))
            parts += await rest_of(session)
            assert session.position == session.frames == session.summary.frames == 69
            with pytest.raises(EndedError, match="has ended"):
                await session.say("x")
        assert {progress.stage for progress in heard} >= {Stage.DENOISE, Stage.DECODE}
        return np.concatenate(parts), begin, rest

    whole = known(("3s", "a blue star spins"), frames=69)
    frames, begin, rest = with_client(served[0], use)
    assert np.array_equal(frames, whole)
    assert np.array_equal(rest, whole[begin:])


def test_going_back_and_stopping(served, known):
    async def use(client):
        async with client.converse("a red circle", frames=201, **WISH) as session:
            parts = [await anext(session) for _ in range(6)]
            assert await session.seek("1.4s") == 21 / 16
            again = [await anext(session)]
            seconds = await session.stop()
            again += await rest_of(session)
            assert session.summary.frames == round(seconds * 16) < 201
        return np.concatenate(parts), np.concatenate(again)

    first, again = with_client(served[0], use)
    whole = known(frames=201)
    assert np.array_equal(first, whole[: len(first)])
    assert np.array_equal(again, whole[21:][: len(again)])


def test_a_line_that_breaks_is_taken_up_again(served, known):
    with cut_line(served[0]) as line:

        async def use(client):
            async with client.converse("a red circle", frames=125, **WISH) as session:
                parts = [await anext(session) for _ in range(2)]
                line.cut()
                parts += [await anext(session) for _ in range(2)]
                line.cut()
                await session.say("a blue star spins", at=6)
                parts += await rest_of(session)
            return np.concatenate(parts)

        assert np.array_equal(with_client(line.address, use), known((6, "a blue star spins"), frames=125))


def test_what_is_left_leaves_nothing_behind(served):
    async def use(client):
        session = client.converse("a red circle", frames=253, **WISH)
        with pytest.raises(InputError, match="has not begun"):
            await anext(session)
        async with session:
            await anext(session)
            await session.pause()
            waiting = asyncio.create_task(rest_of(session))
            await asyncio.sleep(0)
            await session.close()
            assert sum(map(len, await waiting)) < 253
        await asyncio.to_thread(wait_until, lambda: not running(served[1]))
        task = asyncio.create_task(rest_of(await client.converse("a red circle", frames=253, **WISH).open()))
        await asyncio.sleep(0.1)
        task.cancel()
        assert running(served[1])
        with pytest.raises(InputError, match="18 frames"):
            await client.converse("a red circle", frames=18).open()

    with_client(served[0], use)
    gc.collect()
    wait_until(lambda: not running(served[1]))


def running(engine):
    return list(engine._leader._clients.streams)
