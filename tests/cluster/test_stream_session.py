"""`reelray.stream`: frames come out while prompts go in."""

import threading

import numpy as np
import pytest

import reelray
from reelray.proto.errors import InputError, OutputError, PromptError, SizeError, SnapshotError, UnsupportedError
from tests.support.tiny_stream import write_tiny_stream

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
        with pytest.raises(PromptError, match="tokens and the model reads at most 32"):
            session.say("a red circle " * 40)
        session.say("a red circle")  # from frame 0 on
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


@pytest.mark.parametrize("kind", ["exact", "replay", "quick"])
def test_a_snapshot_goes_on_in_another_engine(start, known, tmp_path, tiny_stream, kind):
    path = tmp_path / "a.snap"
    with start(frames=61) as session:
        parts = [next(session)]
        session.say("a blue star spins", at=2)
        seconds = session.snapshot(path, kind)
        parts += session
    whole = np.concatenate(parts)
    assert np.array_equal(whole, known((2, "a blue star spins"), frames=61))  # who was put down is none the worse
    first = round(seconds * 16)
    with reelray.resume(path, device="cpu", engine="local") as other:
        assert (other.position, other.frames, other.seed, other.fps) == (first, 61, 3, 16)
        rest = rest_of(other)
    assert len(rest) == 61 - first
    assert other.summary.frames == 61
    if kind != "quick":
        assert np.array_equal(rest, whole[first:])
    with reelray.resume(path, model=tiny_stream, device="cpu", engine="local") as third:
        third.say("a pink heart")
        third.extend(0.5)
        assert len(rest_of(third)) == 69 - first


def test_snapshots_that_do_not_fit_are_refused(start, tmp_path, tiny_t2v, tiny_stream):
    path, other = tmp_path / "a.snap", write_tiny_stream(tiny_t2v, tmp_path / "other")
    weights = next(other.glob("transformer/*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with start(frames=61) as session:
        with pytest.raises(InputError, match="must be one of exact, replay, quick"):
            session.snapshot(path, "slow")
        assert not path.exists()
        session.snapshot(path)
        with pytest.raises(OutputError, match="does not exist"):
            session.snapshot(tmp_path / "no" / "a.snap")
        assert len(rest_of(session)) == 61
    with pytest.raises(InputError, match="has ended"):
        session.snapshot(path)
    with pytest.raises(SnapshotError, match="one of another model"):
        reelray.resume(path, model=other, device="cpu", engine="local")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(SnapshotError, match="cut off or damaged"):
        reelray.resume(path, model=tiny_stream, device="cpu", engine="local")


def test_a_fork_goes_its_own_way_and_leaves_the_first_one_alone(start, known):
    with start(frames=61) as session:
        first = next(session)
        with pytest.raises(PromptError, match="empty"):
            session.fork("  ")
        session.pause()
        other = session.fork("a blue star spins")  # paused as this one is
        assert len(session._engine._leader._clients.streams) == 2
        session.resume()
        other.resume()
        begin = other.position
        held_from = other.job.request.changes[0].latent_frame
        frames = np.concatenate([first, rest_of(session)])
        others = rest_of(other)
    assert np.array_equal(frames, known(frames=61))
    wanted = known(((4 * held_from - 3) / 16, "a blue star spins"), frames=61)
    assert np.array_equal(others, wanted[begin:])
    assert not np.array_equal(others, frames[begin:])


def test_a_stream_goes_back_and_takes_another_way(start, known):
    with start(frames=61) as session:
        session.say("a pink heart", at=1.7)  # from frame 29 on
        while session.position < 45:
            next(session)
        session.pause()
        assert session.seek(1.5) == 21 / 16  # the chunk that begins before frame 24
        assert session.position == 21
        assert session.say("a blue star spins") == 21 / 16
        assert all(rollout.paused for rollout in session._engine._leader._core._rollouts.values())
        session.resume()
        frames = rest_of(session)
        with pytest.raises(InputError, match="has ended"):
            session.seek(0)
    assert np.array_equal(frames, known((21 / 16, "a blue star spins"), frames=61)[21:])
    assert [change.prompt for change in session.job.request.changes] == ["a blue star spins"]


def test_a_stream_goes_back_to_its_beginning_but_not_ahead(start, known):
    with start(frames=29) as session:
        with pytest.raises(InputError, match="has not been shown yet"):
            session.seek(1)
        next(session)
        assert session.seek(0) == 0
        assert session.say("a blue star spins") == 0
        assert np.array_equal(rest_of(session), known(prompt="a blue star spins", frames=29))


def test_another_thread_may_go_back_while_frames_are_taken(start, known):
    with start(frames=253) as session:
        next(session)
        session.pause()
        threading.Timer(0.2, lambda: (session.seek(0), session.resume())).start()
        frames = []
        while sum(map(len, frames)) < 13:
            batch = next(session)
            frames = [batch] if session.position == len(batch) else [*frames, batch]
    assert np.array_equal(np.concatenate(frames)[:13], known(frames=253)[:13])
