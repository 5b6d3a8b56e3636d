"""`reelray.Client.converse` against a gateway with a tiny stream: a session there is one here."""

import gc
import threading

import numpy as np
import pytest

import reelray
from reelray.cluster.gateway import services
from reelray.cluster.gateway.conversations import ConverseLimits
from reelray.proto.errors import (
    EndedError,
    EngineError,
    InputError,
    LateError,
    PromptError,
    SizeError,
    UnsupportedError,
)
from reelray.proto.events import Stage
from tests.support.conversing import FRAME_BYTES, open_tiny
from tests.support.cut_line import cut_line
from tests.support.gateway import serve
from tests.support.stream_sessions import rest_of
from tests.support.waiting import wait_until

WISH = {"size": (48, 32), "fps": 16, "seed": 3}


@pytest.fixture(scope="module")
def served(tiny_stream):
    entry, engine = open_tiny(tiny_stream)
    with serve(engine, entries=[entry]) as address:
        yield address, engine, entry
    engine.close()


@pytest.fixture
def client(served):
    with reelray.Client(served[0]) as client:
        yield client


@pytest.fixture
def talk(client):
    return lambda prompt="a red circle", **wish: client.converse(prompt, **(WISH | wish))


def test_frames_come_out_while_prompts_go_in(talk, known):
    heard = []
    with talk(frames=61, on_progress=heard.append) as session:
        parts = [next(session)]
        assert parts[0].dtype == np.uint8
        assert parts[0].shape[1:] == (32, 48, 3)
        assert parts[0].flags.writeable
        held_from = session.say("a blue star spins", at="3s")
        assert session.position == len(parts[0])
        parts += session
    assert held_from == 53 / 16
    assert session.position == session.frames == session.summary.frames == 61
    assert np.array_equal(np.concatenate(parts), known(("3s", "a blue star spins"), frames=61))
    assert [change.prompt for change in session.facts.changes] == ["a blue star spins"]
    assert {progress.stage for progress in heard} >= {Stage.DENOISE, Stage.DECODE}


def test_a_paused_stream_waits_for_another_thread(talk, known):
    with talk(frames=61) as session:
        session.pause()
        threading.Timer(0.3, session.resume).start()
        assert np.array_equal(rest_of(session), known(frames=61))


def test_the_length_is_one_of_whole_chunks_and_grows_until_it_is_stopped(talk, known):
    with talk(seconds=1) as session:
        assert session.frames == 21
        assert session.extend(0.6) == pytest.approx(37 / 16)
        assert session.frames == 37
        assert np.array_equal(rest_of(session), known(frames=37))
        with pytest.raises(EndedError, match="has ended"):
            session.say("x")
    with talk(frames=201) as session:
        first = next(session)
        seconds = session.stop()
        with pytest.raises(EndedError, match="was stopped; nothing can be said"):
            session.say("a blue star spins")
        frames = np.concatenate([first, rest_of(session)])
    assert len(frames) == session.summary.frames == round(seconds * 16) < 201
    assert np.array_equal(frames, known(frames=201)[: len(frames)])


def test_going_back_is_what_it_is_here(talk, start):
    """Also when the server is far ahead, and when all is made."""
    told = []
    for begin in (talk, start):
        with begin(frames=61) as session:
            session.say("a blue star spins", at=2)
            frames = [next(session) for _ in range(6)]
            with pytest.raises(InputError, match="3 s has not been shown yet; the stream is at"):
                session.seek(3)
            assert session.seek("1.4s") == 21 / 16
            assert session.position == 21
            with pytest.raises(InputError, match=r"^the time to go back to is 'x'"):
                session.seek("x")
            frames += session
            assert session.position == 61
            told.append(np.concatenate(frames))
    assert np.array_equal(*told)


def test_a_fork_goes_its_own_way(talk, known):
    with talk(frames=125) as session:
        parts = [next(session)]
        with session.fork("a blue star spins") as other:
            begin = other.position
            assert begin >= len(parts[0])
            rest = rest_of(other)
            change = other.facts.changes[0]
        parts += session
    assert np.array_equal(np.concatenate(parts), known(frames=125))
    held_from = (4 * change.latent_frame - 3) / 16
    assert np.array_equal(rest, known((held_from, "a blue star spins"), frames=125)[begin:])


def test_what_is_wrong_is_refused_as_it_is_here(talk, known):
    with talk(frames=61, pace=20.0) as session:
        session.pause()
        for wrong, kind, text in [
            (lambda: session.say("  "), PromptError, "empty"),
            (lambda: session.say(5), PromptError, "the prompt is 5; it must be text"),
            (lambda: session.say("half \ud800"), PromptError, "UTF-8"),
            (lambda: session.say("x", at="later"), InputError, "write seconds"),
            (lambda: session.say("x", at=100), LateError, "extend it first"),
            (lambda: session.say("x", at="1s,cut"), UnsupportedError, "makes one scene of all prompts"),
            (lambda: session.say("x" * 3_000_000), InputError, "at most"),
            (lambda: session.extend(-1), InputError, "what is to be added is -1"),
            (lambda: session.extend(80_000), SizeError, "too many"),
            (lambda: session.pace("x"), InputError, "pace is 'x'"),
            (lambda: session.pace(-1.0), InputError, "pace is -1"),
            (lambda: session.snapshot("a.snap"), UnsupportedError, "a server writes no snapshots"),
        ]:
            with pytest.raises(kind, match=text):
                wrong()
        session.pace(30)
        session.resume()
        assert np.array_equal(rest_of(session), known(frames=61))
    for wish, text in (({"pace": -1}, "pace is -1"), ({"keep_s": 0}, "keep_s is 0"), ({"frames": 18}, "18 frames")):
        with pytest.raises(InputError, match=text):
            talk(**wish)


def running(engine):
    return list(engine._leader._clients.streams)


@pytest.mark.parametrize("left_by", ["break", "error", "nobody", "another thread"])
def test_a_session_that_is_left_leaves_nothing_behind(talk, served, left_by):
    def take():
        if left_by == "nobody":
            next(talk(frames=253))
            return
        with talk(frames=253) as session:
            for _ in session:
                if left_by == "another thread":
                    threading.Timer(0.1, session.close).start()
                    session.pause()
                    assert all(True for _ in session)
                if left_by == "error":
                    raise OSError
                break
        assert session.summary is None
        with pytest.raises(EndedError, match="was closed"):
            session.say("x")

    if left_by == "error":
        with pytest.raises(OSError):  # noqa: PT011  ours
            take()
    else:
        take()
    gc.collect()
    wait_until(lambda: not running(served[1]))
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "conversation"])


def test_sessions_end_with_their_client(served):
    with reelray.Client(served[0]) as client:
        session = client.converse("a red circle", frames=253, **WISH)
        forks = [session.fork(), session.fork("a blue star spins")]
        assert [next(one).dtype for one in (session, *forks)] == [np.uint8] * 3
    assert list(session) == []
    wait_until(lambda: not running(served[1]))


def test_whoever_takes_no_frames_holds_the_engine_back(served, monkeypatch):
    monkeypatch.setattr(services, "ConverseLimits", lambda: ConverseLimits(window_bytes=8 * FRAME_BYTES))
    entry, engine = served[2], served[1]
    with (
        serve(engine, entries=[entry]) as address,
        reelray.Client(address) as client,
        client.converse("a red circle", frames=253, **WISH) as session,
    ):
        next(session)
        for _ in range(50):  # whole requests go by if nothing holds it
            threading.Event().wait(0.02)
        assert session.say("a blue star spins") * 16 < 16 + 5 + 32 + 8 * 4
        session.stop()
        rest_of(session)


def test_a_line_that_breaks_is_taken_up_again(served, known):
    with (
        cut_line(served[0]) as line,
        reelray.Client(line.address) as client,
        client.converse("a red circle", frames=253, **WISH) as session,
    ):
        parts = [next(session) for _ in range(2)]
        session.say("a blue star spins", at=8)
        for _ in range(2):
            line.cut()
            parts += [next(session) for _ in range(4)]
        line.cut()
        session.say("a pink heart", at=12)
        parts += session
    assert np.array_equal(np.concatenate(parts), known((8, "a blue star spins"), (12, "a pink heart"), frames=253))


def test_a_line_that_stays_broken_is_a_lost_engine(served):
    with cut_line(served[0]) as line, reelray.Client(line.address) as client:
        session = client.converse("a red circle", frames=253, keep_s=1, **WISH)
        next(session)
        line.lets_in = False
        line.cut()
        with pytest.raises(EngineError, match="the server was lost") as raised:
            list(session)
        assert raised.value.retryable
        with pytest.raises(EngineError, match="the server was lost"):
            session.say("x")
    wait_until(lambda: not running(served[1]))


def test_a_session_of_a_server_that_was_restarted_is_lost(served):
    entry, engine = served[2], served[1]
    with serve(engine, entries=[entry]) as address:
        client = reelray.Client(address)
        session = client.converse("a red circle", frames=253, **WISH)
        next(session)
    with serve(engine, entries=[entry], address=address), client, pytest.raises(EngineError) as raised:
        list(session)
    assert raised.value.retryable
    session.close()


def test_going_back_when_all_is_made_and_has_arrived(talk, served, known):
    """Until the last frame is taken; what had arrived and was not taken is not shown."""
    with talk(frames=29) as session:
        first = next(session)
        wait_until(lambda: not running(served[1]))
        wait_until(lambda: sum(len(batch.data) for batch in session._dialogue._batches) == (29 - 5) * FRAME_BYTES)
        assert session.seek(0) == 0.0
        assert session.position == 0
        assert np.array_equal(rest_of(session), known(frames=29))
        assert np.array_equal(first, known(frames=29)[:5])
