"""Sessions that are put down, forked and sent back."""

import threading

import numpy as np
import pytest

import reelray
from reelray.proto.errors import InputError, OutputError, PromptError, SnapshotError
from tests.support.stream_sessions import rest_of
from tests.support.tiny_stream import write_tiny_stream


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
