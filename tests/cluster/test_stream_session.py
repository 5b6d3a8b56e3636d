"""`reelray.stream`: frames come out while prompts go in."""

import threading

import numpy as np
import pytest

import reelray
from reelray.proto.errors import InputError, PromptError, SizeError, UnsupportedError

WISH = {"size": (48, 32), "fps": 16, "seed": 3, "device": "cpu", "engine": "local"}
"""A chunk begins every half a second: at pixel frames 0, 5, 13, 21, 29, ..."""


@pytest.fixture
def start(tiny_stream):
    def start(prompt="a red circle", **wish):
        return reelray.stream(prompt, model=tiny_stream, **(WISH | wish))

    return start


@pytest.fixture
def known(tiny_stream):
    """Frames of a stream of which everything is known in advance."""

    def known(*at, prompt="a red circle", **wish):
        return reelray.render(prompt, model=tiny_stream, at=at, **(WISH | wish)).frames

    return known


def rest_of(session):
    return np.concatenate([*session, np.empty((0, 32, 48, 3), np.uint8)])


def test_frames_come_out_while_prompts_go_in(start, known):
    with start(frames=61) as session:
        parts = [next(session)]
        assert parts[0].dtype == np.uint8
        assert parts[0].shape[1:] == (32, 48, 3)
        assert parts[0].flags.writeable
        held_from = session.say("a blue star spins")
        assert session.position == len(parts[0])
        parts += session
    assert session.position == session.frames == 61
    assert session.summary.frames == 61
    assert (held_from * 16 - 5) % 8 == 0  # where a chunk begins
    assert np.array_equal(np.concatenate(parts), known((held_from, "a blue star spins"), frames=61))
    assert session.job.request.changes[0].prompt == "a blue star spins"


def test_the_length_is_one_of_whole_chunks_and_grows(start, known):
    with start(seconds=1) as session:
        assert session.frames == 21  # 17 would do, in chunks of 5, 8, 8
        assert session.extend(0.6) == pytest.approx(37 / 16)  # two chunks more
        frames = rest_of(session)
    assert np.array_equal(frames, known(frames=37))


def test_a_paused_stream_waits_for_another_thread(start, known):
    with start(frames=61) as session:
        session.pause()
        threading.Timer(0.3, session.resume).start()
        assert np.array_equal(rest_of(session), known(frames=61))


def test_a_stopped_stream_is_complete_and_hears_nothing_more(start, known):
    with start(frames=201) as session:
        first = next(session)
        seconds = session.stop()
        with pytest.raises(InputError, match="was stopped; nothing can be said"):
            session.say("a blue star spins")
        frames = np.concatenate([first, rest_of(session)])
    assert len(frames) == session.summary.frames == round(seconds * 16) < 201
    assert np.array_equal(frames, known(frames=201)[: len(frames)])
    with pytest.raises(InputError):
        session.pause()


def test_whoever_takes_no_frames_holds_the_engine_back(start):
    with start(frames=253) as session:
        next(session)
        for _ in range(50):  # whole requests go by if nothing holds it
            threading.Event().wait(0.02)
        # What may be ahead: 32 frames of credit, two clean chunks and one in work.
        assert session.say("a blue star spins") * 16 < 5 + 32 + 8 * 4


def test_what_is_wrong_is_refused_and_the_stream_goes_on(start, known):
    with start(frames=61) as session:
        session.pause()
        with pytest.raises(PromptError, match="empty"):
            session.say("  ")
        with pytest.raises(InputError, match="write seconds after the beginning"):
            session.say("x", at="later")
        with pytest.raises(InputError, match="after the end"):
            session.say("x", at=100)
        with pytest.raises(InputError, match="write seconds"):
            session.extend(-1)
        with pytest.raises(SizeError, match="too many"):
            session.extend(1e6)
        session.resume()
        assert np.array_equal(rest_of(session), known(frames=61))
        with pytest.raises(InputError, match="has ended"):
            session.say("x")


def test_a_closed_stream_says_so(start):
    session = start(frames=61)
    session.close()
    session.close()
    assert list(session) == []
    with pytest.raises(InputError, match="closed"):
        session.say("x")


def test_models_of_whole_clips_are_refused_before_they_are_loaded(tiny_t2v):
    with pytest.raises(UnsupportedError, match="makes whole clips"):
        reelray.stream("x", model=tiny_t2v, **WISH)
