"""`reelray.stream`: frames come out while prompts go in."""

import gc
import threading

import numpy as np
import pytest

import reelray
from reelray.proto.errors import (
    EndedError,
    InputError,
    LateError,
    PromptError,
    SizeError,
    UnsupportedError,
)
from tests.support.commands import start_process
from tests.support.pages_left import free_pages
from tests.support.stream_sessions import WISH, rest_of
from tests.support.tiny_stream import write_tiny_stream


@pytest.fixture(scope="module")
def scenes(tiny_t2v, tmp_path_factory):
    """The same model with positions that are counted anew, which can begin other scenes."""
    memory = {"local": 4, "sink": 1, "placement": "relative", "cut_position": 20}
    return write_tiny_stream(tiny_t2v, tmp_path_factory.mktemp("streams") / "scenes", memory=memory)


def test_frames_come_out_while_prompts_go_in(start, known):
    with start(frames=61) as session:
        parts = [next(session)]
        assert parts[0].dtype == np.uint8
        assert parts[0].shape[1:] == (32, 48, 3)
        assert parts[0].flags.writeable
        assert parts[0].flags.c_contiguous
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
        session.say("a pink heart", at=12)
        seconds = session.stop()
        with pytest.raises(InputError, match="was stopped; nothing can be said"):
            session.say("a blue star spins")
        frames = np.concatenate([first, rest_of(session)])
    assert len(frames) == session.summary.frames == round(seconds * 16) < 201
    assert session.job.request.changes == ()  # what was to come is no part of the video
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
        with pytest.raises(PromptError, match="tokens and the model reads at most 32"):
            session.say("a red circle " * 40)
        session.say("a red circle")  # from frame 0 on
        with pytest.raises(InputError, match="write seconds"):
            session.say("x", at="later")
        with pytest.raises(
            LateError, match=r"after the end of the video: it has 3\.81 s, .* begins at 3\.31 s; extend"
        ):
            session.say("x", at=100)
        with pytest.raises(UnsupportedError, match="makes one scene of all prompts"):
            session.say("x", at="1s,cut")
        for wrong in (None, 5):
            with pytest.raises(PromptError, match=f"the prompt is {wrong}; it must be text"):
                session.say(wrong)
        for wrong in (-1, "abc", None, True, []):
            with pytest.raises(InputError, match=r"^what is to be added is .*; write seconds greater than 0, such as"):
                session.extend(wrong)
        with pytest.raises(InputError, match=r"^the time to go back to is 'x'; write seconds from the beginning on"):
            session.seek("x")
        with pytest.raises(InputError, match=r"path is 5; it must be the name of a file"):
            session.snapshot(5)
        with pytest.raises(SizeError, match="too many"):
            session.extend(1e6)
        session.resume()
        frames = [next(session) for _ in range(3)]
        with pytest.raises(LateError, match=r"is being made already; it can hold from \d\.\d\d s on"):
            session.say("x", at=0.1)
        assert np.array_equal(np.concatenate([*frames, rest_of(session)]), known(frames=61))
        with pytest.raises(InputError, match="has ended"):
            session.say("x")


def test_a_scene_is_cut_live_as_if_it_had_been_known(start, known, scenes):
    with start(frames=61, model=scenes) as session:
        session.pause()
        with pytest.raises(SizeError, match="too many for one video; it has at most 1048573, and another may go on"):
            session.extend(1e7)
        assert session.say("a blue star spins", at=1, cut=True) == 21 / 16
        session.say("a pink heart", at="2.2s,cut")
        session.say("a green ring", at="2.2s")  # takes its place, and cuts no more
        session.resume()
        frames = rest_of(session)
    assert [change.cut for change in session.job.request.changes] == [True, False]
    wish = {"frames": 61, "model": scenes}
    assert np.array_equal(frames, known(("1s,cut", "a blue star spins"), ("2.2s", "a green ring"), **wish))
    assert not np.array_equal(frames, known(("1s", "a blue star spins"), ("2.2s", "a green ring"), **wish))


def resume_until_made(session):
    for _ in range(1000):
        session.resume()
        threading.Event().wait(0.01)


def test_all_that_is_made_is_told_as_such(start):
    """Its frames wait: the engine is ahead of whoever takes them."""
    with start(frames=13) as session:
        told = "all 0.81 s of the video are made, and nothing can be said .*; 13 frames of it can still be taken"
        with pytest.raises(EndedError, match=told):
            resume_until_made(session)
        with pytest.raises(EndedError, match=told):
            session.snapshot("never.snap")
        assert len(rest_of(session)) == 13


def test_the_length_of_which_nothing_was_said(tiny_stream, scenes):
    """A minute, or as much as the model can make; the same from the command line."""
    from reelray.cluster.render import RenderOptions, plan_job
    from reelray.cluster.services import default_services

    services = default_services()
    catalog = services.open_catalog(services.load_settings())
    wish = RenderOptions(prompt="x", stream=True, fps=16)
    assert plan_job(wish, catalog.find(str(tiny_stream))).request.frames == 253
    assert plan_job(wish, catalog.find(str(scenes))).request.frames == 961


def leaders():
    """Threads of engines that run here."""
    return [thread for thread in threading.enumerate() if thread.name == "reelray-leader"]


@pytest.mark.parametrize("left_by", ["break", "error", "interrupt", "nobody"])
def test_a_stream_that_is_left_early_leaves_nothing_behind(start, left_by):
    before = leaders()

    def take():
        if left_by == "nobody":
            for _ in start(frames=253):
                return
        with start(frames=253) as session:
            for _ in session:
                assert len(leaders()) == len(before) + 1
                if left_by == "break":
                    break
                raise {"error": OSError, "interrupt": KeyboardInterrupt}[left_by]

    if left_by in {"break", "nobody"}:
        take()
    else:
        with pytest.raises((OSError, KeyboardInterrupt)):
            take()
    gc.collect()
    assert leaders() == before


def test_a_loop_ends_when_another_thread_closes_the_stream(start):
    session, taken = start(frames=61), []
    session.pause()
    loop = threading.Thread(target=lambda: taken.extend(session))
    loop.start()
    threading.Timer(0.2, session.close).start()
    loop.join(30)
    assert not loop.is_alive()
    assert session.summary is None


def test_the_pages_of_a_stream_that_is_closed_are_free_while_others_go_on(start, known):
    with start(frames=125) as session:
        frames = [next(session)]
        rank = session._engine._channel
        one = promised_pages(rank)
        with session.fork() as other:
            next(other)
            assert promised_pages(rank) > one > 0
        frames += [next(session) for _ in range(8)]  # longer than the engine can be ahead
        assert promised_pages(rank) <= one
        assert np.array_equal(np.concatenate([*frames, rest_of(session)]), known(frames=125))


def promised_pages(rank):
    return sum(pages - unpromised for _, unpromised, pages in free_pages(rank))


LEFT = """
import os, signal, threading, reelray
wish = {"model": sys.argv[1], "size": (48, 32), "frames": 253, "device": "cpu", "engine": "local"}
try:
    with reelray.stream("a disc", **wish) as session:
        session.pause()
        threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
        for _ in session:
            pass
except KeyboardInterrupt:
    print("interrupted", threading.active_count())
left = reelray.stream("a disc", **wish)
print(next(left).shape)
single = reelray.render_stream("a disc", **wish)
print(next(single).shape)
"""


def test_ctrl_c_in_a_stream_that_waits_and_streams_at_the_end_of_python(tiny_stream, tmp_path):
    """A thread that still computes then would end the process with a core dump."""
    with start_process(LEFT, tmp_path, str(tiny_stream)) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == ["interrupted 1", "(5, 32, 48, 3)", "(32, 48, 3)"]


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


def test_a_stream_and_its_fork_keep_the_pace_that_was_asked_for(start):
    with start(frames=61, pace=16) as session, session.fork() as other:
        assert [one.job.request.pace_fps for one in (session, other)] == [16.0, 16.0]
        session.pace(8)
        other.pace(None)
        assert [one.job.request.pace_fps for one in (session, other)] == [8.0, None]
        told = [other._engine._leader._core._rollouts[one.job.request.request_id] for one in (session, other)]
        assert [rollout.request.pace_fps for rollout in told] == [8.0, None]
        for wrong in ("x", 0, -1, True, 1000):
            with pytest.raises(InputError, match="pace is"):
                session.pace(wrong)
