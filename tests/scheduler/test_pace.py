"""Sessions that play while they are made: whose turn it is, and that nobody waits for ever."""

from types import SimpleNamespace

import pytest

from reelray.proto.memory_rule import Commit, MemoryRule
from reelray.scheduler.batching import Batching
from reelray.scheduler.limits import EngineLimits
from reelray.scheduler.pace import GUARD, Paces
from tests.support.core_trace import FACTS, Trace
from tests.support.requests import make_recipe, make_request

RULE = MemoryRule(local=4, sink=1, commit=Commit.LAST_STEP)
STEPS, CHUNK = 2, 2
CHUNK_FRAMES = 4 * CHUNK


def stream(name, *, pace=None, latent_frames=40, **changes):
    recipe = make_recipe(steps=STEPS, chunk=CHUNK, guidance=1.0, memory=RULE)
    return make_request(name, latent_frames=latent_frames, recipe=recipe, pace_fps=pace, **changes)


class Played:
    """A client of each session that shows frames as they come, at its pace; a step takes a second."""

    def __init__(self, *requests, batching=None):
        limits = EngineLimits(requests=9, frame_credit=9999, chunks_ahead=99, batching=batching or Batching())
        self.trace, self.requests = Trace(limits), {r.request_id: r for r in requests}
        self.began, self.sent, self.late, self.turns = {}, dict.fromkeys(self.requests, 0), {}, []
        for request in requests:
            self.trace.submit(request)

    def run(self, steps):
        for _ in range(steps):
            plan = self.trace.step()
            if plan is None:
                break
            self.trace.now_s += 1.0
            self.turns.append("".join(window.request_id for window in plan.windows))
            for decode in plan.decodes:
                self._show(decode)
        return self

    def _show(self, decode):
        name, now = decode.request_id, self.trace.now_s
        end = FACTS.frames(decode.first_latent_frame + decode.latent_frames)
        pace = self.requests[name].pace_fps
        if pace is not None:
            self.began.setdefault(name, now)
            due = self.began[name] + self.sent[name] / pace
            self.late[name] = max(self.late.get(name, 0.0), now - due)
        self.sent[name] = end


def test_the_session_whose_next_frame_is_due_first_goes_first():
    """All begin at once; a plays twice as fast and so has twice the turns, as long as all need them."""
    paces = {"a": 1.8, "b": 0.9, "c": 0.9}  # of four frames a second that can be made
    played = Played(*(stream(name, pace=pace, latent_frames=200) for name, pace in paces.items())).run(120)
    share = {name: sum(turn == name for turn in played.turns[24:]) for name in "abc"}
    assert share["a"] > 1.6 * share["b"]
    assert abs(share["b"] - share["c"]) <= STEPS * 2


def chunk_s(pace):
    return CHUNK_FRAMES / pace


@pytest.mark.parametrize("greedy", [1, 4])
def test_a_session_with_a_pace_keeps_it_beside_greedy_ones(greedy):
    """A chunk takes two seconds to make and eight to show."""
    pace = 1.0
    others = [stream(f"{number}") for number in range(greedy)]
    played = Played(*others, stream("p", pace=pace)).run(150)
    assert played.sent["p"] == FACTS.frames(40)
    assert played.late["p"] == 0
    for number in range(greedy):  # what is left is shared round robin
        assert abs(played.sent[f"{number}"] - played.sent["0"]) <= CHUNK_FRAMES * 2
        assert played.sent[f"{number}"] > 0


def test_without_a_pace_it_would_not():
    """The control: five in turn take ten seconds a chunk."""
    others = [stream(f"{number}") for number in range(4)]
    played = Played(*others, stream("p", latent_frames=40)).run(100)
    assert played.sent["p"] < FACTS.frames(40)
    assert 100 / (played.sent["p"] / CHUNK_FRAMES) > chunk_s(1.0)


@pytest.mark.parametrize("most", [1, 2])
def test_sessions_that_nobody_could_keep_up_with_leave_something_to_the_others(most):
    paced = [stream(name, pace=100.0, latent_frames=200) for name in "ab"]
    played = Played(*paced, stream("c", latent_frames=20, width=48), batching=Batching(most=most)).run(160)
    waits = [number for number, turn in enumerate(played.turns) if turn == "c"]
    assert waits
    gaps = [b - a for a, b in zip([0, *waits], waits, strict=False)]
    assert max(gaps) <= (GUARD + 1) * STEPS * 3
    assert abs(played.sent["a"] - played.sent["b"]) <= CHUNK_FRAMES * 2


def test_one_that_is_ahead_lets_the_others_go_first():
    played = Played(stream("p", pace=0.01, latent_frames=200), stream("c", latent_frames=200)).run(60)
    later = played.turns[12:]
    assert later.count("c") > 2 * later.count("p")


def test_a_playback_that_has_stopped_does_not_take_all_turns_to_catch_up():
    played = Played(stream("p", pace=1.0, latent_frames=200), stream("q", pace=1.0, latent_frames=200)).run(12)
    played.trace.now_s += 500.0
    played.run(2)
    played.trace.submit(stream("c", latent_frames=20))
    played.requests["c"] = stream("c", latent_frames=20)
    played.sent["c"] = 0
    played.run(60)
    assert played.turns[-60:].count("c") > 10


def test_a_pace_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"pace_fps is 0.0"):
        stream("a", pace=0.0)


def test_what_a_stream_goes_on_from_counts_as_shown():
    paces, stream_of = Paces(), stream("a", pace=2.0)
    paces.follow({"a": SimpleNamespace(request=stream_of, frames_sent=100)}, 50.0)
    assert paces.due_s(SimpleNamespace(request=stream_of, frames_sent=104)) == 52.0


def test_another_pace_holds_from_the_next_frame_on():
    """What was shown is shown: neither late nor ahead by what another pace would have shown."""
    paces, due = Paces(), []
    for pace, sent, now_s in ((2.0, 0, 10.0), (2.0, 20, 12.0), (10.0, 20, 12.5), (10.0, 30, 12.6), (1.0, 30, 12.7)):
        playback = SimpleNamespace(request=stream("a", pace=pace), frames_sent=sent)
        paces.follow({"a": playback}, now_s)
        due.append(paces.due_s(playback))
    assert due == pytest.approx([10.0, 22.0, 22.0, 23.0, 23.0])
