"""`reelray.Client` against a gateway with engines that draw."""

import time

import numpy as np
import pytest

import reelray
from reelray.cluster.client.connection import ServerAddress
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.server import Guard
from reelray.proto.errors import EngineError, InputError, PromptError, SizeError, UnknownModelError
from reelray.proto.events import Stage
from tests.support.fake_engine import FakeEngine, draw_frames
from tests.support.gateway import serve

TOKEN = "a-token-of-length"


def test_a_video_with_its_summary():
    engine, heard = FakeEngine(), []
    with serve(engine) as address, reelray.Client(address) as client:
        video = client.render("a disc", seed=3, frames=9, size=(64, 48), fps=8, on_progress=heard.append)
    assert np.array_equal(video.frames, draw_frames(engine.requests[0]))
    assert (video.fps, video.summary.seed, video.summary.forwards, video.summary.device) == (8.0, 3, 8, "cpu")
    assert [p.done for p in heard if p.stage is Stage.DENOISE] == [1, 2, 3, 4]


def test_frames_one_by_one_and_leaving_early():
    engine = FakeEngine(frame_delay_s=0.05)
    with serve(engine) as address, reelray.Client(address) as client:
        frames = client.render_stream("a disc", frames=401)
        assert next(frames).shape == (64, 96, 3)
        frames.close()
        end = time.monotonic() + 10
        while not engine.cancelled:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert sum(1 for _ in client.render_stream("a disc", frames=5)) == 5


def test_describe():
    with serve(FakeEngine(), FakeEngine()) as address, reelray.Client(address) as client:
        assert [(engine.model, engine.requests) for engine in client.describe()] == [("fake", 0), ("fake-1", 0)]


def test_errors_are_those_of_the_server():
    with serve(FakeEngine(error=EngineError("lost", ids={"rank": "1"}))) as address:
        with reelray.Client(address) as client:
            with pytest.raises(SizeError, match="18 frames"):
                client.render("a disc", frames=18)
            with pytest.raises(UnknownModelError, match="models here: fake"):
                client.render("a disc", model="nope")
            with pytest.raises(InputError, match="unknown option pace, stream; there are seconds"):
                client.render("a disc", stream=True, pace=3.0)
            with pytest.raises(PromptError, match="UTF-8"):
                client.render("half \ud800")
            with pytest.raises(InputError, match="takes 3000"):
                client.render("x" * 3_000_000)
            with pytest.raises(InputError, match="on_progress"):
                client.render("a disc", on_progress=3)
            with pytest.raises(EngineError, match="lost") as raised:
                client.render("a disc")
            assert raised.value.retryable
            assert raised.value.ids["rank"] == "1"
            assert raised.value.ids["request"].startswith("r-")
        with pytest.raises(InputError, match="closed"):
            client.describe()


def test_a_wrong_token_is_wrong_input():
    with serve(FakeEngine(), guard=Guard(callers=Callers({TOKEN: "default"}))) as address:
        with reelray.Client(address, token="another") as client, pytest.raises(InputError, match="wants a token"):
            client.describe()
        with reelray.Client(address, token=TOKEN) as client:
            assert client.describe()
            assert len(client.render("a disc", frames=5).frames) == 5


def test_a_server_that_goes_is_a_lost_engine():
    engine = FakeEngine(frame_delay_s=0.05)
    with serve(engine) as address:
        client = reelray.Client(address)
        frames = client.render_stream("a disc", frames=401)
        next(frames)
    with client, pytest.raises(EngineError, match="the server was lost"):
        list(frames)


@pytest.mark.parametrize(
    ("address", "target"),
    [
        *(("host", "host:50051"), ("host:9", "host:9"), ("::1", "[::1]:50051"), ("[::1]:9", "[::1]:9")),
        *(("[::1]", "[::1]:50051"), ("unix:/run/r.sock", "unix:/run/r.sock")),
    ],
)
def test_addresses(address, target):
    assert ServerAddress(address=address).target == target


@pytest.mark.parametrize("token", ["two words", "a-token\n", "\u00fc" * 16])
def test_a_token_that_cannot_be_said_is_refused(token):
    with pytest.raises(InputError, match="blanks, line ends"):
        ServerAddress(address="host", token=token)


def test_the_summary_is_that_of_the_server(monkeypatch):
    from dataclasses import replace

    from reelray.proto.layout import Layout
    from reelray.proto.residency import Blocks, Encoder, Residency
    from tests.support import fake_engine

    facts = {
        "layout": Layout.parse("cfg=2,ulysses=2"),
        "decode_ranks": 1,
        "residency": Residency(blocks=Blocks.SHARDED, encoder=Encoder.RELEASED),
    }
    plain = fake_engine.RenderSummary
    monkeypatch.setattr(fake_engine, "RenderSummary", lambda **fields: replace(plain(**fields), **facts))
    with serve(FakeEngine()) as address, reelray.Client(address) as client:
        summary = client.render("a disc").summary
    assert {name: getattr(summary, name) for name in facts} == facts
