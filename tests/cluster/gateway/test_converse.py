"""`Videos.Converse` over the wire: what is said holds as it does in a session here."""

import av
import numpy as np
import pytest

from reelray.proto.v1 import video_spec_pb2
from tests.support.conversing import FRAME_BYTES, Request, Talk, connect, serve_tiny, start_of


@pytest.fixture(scope="module")
def server(tiny_stream):
    with serve_tiny(tiny_stream) as (address, _):
        yield address


@pytest.fixture
def channel(server):
    with connect(server) as channel:
        yield channel


def test_a_stream_of_which_nothing_is_said(channel, known):
    talk = Talk(channel, start_of())
    accepted = talk.next().accepted
    assert (accepted.plan.frames, accepted.plan.seed, accepted.first_frame, accepted.commands) == (61, 3, 0, 0)
    talk.finish()
    talk.rest()
    assert np.array_equal(talk.frames, known(frames=61))
    assert [(offset % FRAME_BYTES, offset // FRAME_BYTES) for offset, _ in talk.begins] == [
        (0, f) for _, f in talk.begins
    ]
    assert (talk.done.summary.frames, talk.done.plan.prompt) == (61, "a red circle")


def test_prompts_hold_as_if_they_had_been_known(channel, known):
    talk = Talk(channel, start_of())
    talk.order(1, pause={})
    talk.order(2, say={"prompt": "a blue star spins", "seconds": 1})
    talk.order(3, say={"prompt": "a pink heart", "seconds": 2.2})
    talk.order(4, extend={"seconds": 0.5})
    talk.order(5, resume={})
    talk.rest()
    assert [talk.answers[n].frame for n in (2, 3)] == [21, 37]
    assert (talk.answers[1].paused, talk.answers[5].paused, talk.answers[4].frames) == (True, False, 69)
    later = (("1s", "a blue star spins"), ("2.2s", "a pink heart"))
    assert np.array_equal(talk.frames, known(*later, frames=69))
    assert [change.prompt for change in talk.done.plan.later_prompts] == ["a blue star spins", "a pink heart"]


def test_a_prompt_for_now_holds_from_where_the_answer_says(channel, known):
    talk = Talk(channel, start_of(frames=125))
    talk.until("media")
    talk.order(1, say={"prompt": "a blue star spins"})
    talk.rest()
    assert not talk.answers[1].HasField("refusal")
    assert np.array_equal(talk.frames, known((talk.answers[1].frame / 16, "a blue star spins"), frames=125))


def test_going_back_shows_the_rest_anew(channel, known):
    """Behind the answer nothing comes of what was before; without a later prompt the frames are the same."""
    talk = Talk(channel, start_of(frames=125, keep_s=9))
    talk.order(1, say={"prompt": "a blue star spins", "seconds": 4})
    for _ in range(12):
        event = talk.until("media")
    talk.order(2, seek={"seconds": 1.5})
    while 2 not in talk.answers:
        talk.next()
    before, messages = len(talk.frames), len(talk.begins)
    talk.rest(receives=True)
    assert talk.answers[2].frame == 21 < event.frame
    assert talk.begins[messages] == (before * FRAME_BYTES, 21)
    assert np.array_equal(talk.frames[:before], known((4, "a blue star spins"), frames=125)[:before])
    assert np.array_equal(talk.frames[before:], known(frames=125)[21:])
    assert talk.done.summary.frames == 125


def test_a_fork_is_a_session_of_its_own(channel, known):
    talk = Talk(channel, start_of(frames=125))
    talk.until("media")
    talk.order(1, fork={"prompt": "a blue star spins"})
    while 1 not in talk.answers:
        talk.next()
    answer = talk.answers[1]
    other = Talk(channel, Request(go_on={"session_id": answer.fork}))
    accepted = other.next().accepted
    assert accepted.session_id == answer.fork
    assert accepted.first_frame == answer.frame > 0
    change = accepted.plan.later_prompts[0]
    assert (change.prompt, len(accepted.plan.later_prompts)) == ("a blue star spins", 1)
    other.rest()
    talk.rest()
    assert np.array_equal(talk.frames, known(frames=125))
    held_from = (4 * change.latent_frame - 3) / 16
    assert np.array_equal(other.frames, known((held_from, "a blue star spins"), frames=125)[accepted.first_frame :])


def test_a_stopped_stream_is_complete(channel, known):
    talk = Talk(channel, start_of(frames=201))
    talk.until("media")
    talk.order(1, stop={})
    talk.rest()
    assert len(talk.frames) == talk.answers[1].frames == talk.done.summary.frames < 201
    assert np.array_equal(talk.frames, known(frames=201)[: len(talk.frames)])


def test_what_is_wrong_is_refused_and_the_stream_goes_on(channel, known):
    talk = Talk(channel, start_of())
    talk.order(1, pause={})
    wrong = [
        ({"say": {"prompt": " "}}, "invalid_prompt", "the prompt is empty"),
        ({"say": {"prompt": "a red circle " * 40}}, "invalid_prompt", "tokens and the model reads at most 32"),
        ({"say": {"prompt": "x", "seconds": 100}}, "too_late", "extend it first"),
        ({"say": {"prompt": "x", "seconds": -1}}, "invalid_input", "write seconds greater than 0"),
        ({"say": {"prompt": "x", "seconds": 1, "cut": True}}, "unsupported", "makes one scene of all prompts"),
        ({"say": {"prompt": "x" * 900_000}}, "invalid_prompt", "900000 characters"),
        ({"extend": {"seconds": float("nan")}}, "invalid_input", "what is to be added is nan"),
        ({"extend": {"seconds": 80_000}}, "invalid_size", "too many"),
        ({"extend": {"seconds": 1e300}}, "invalid_input", "at most a day"),
        ({"seek": {"seconds": 3}}, "invalid_input", "has not been shown yet"),
        ({"pace": {"fps": -1}}, "invalid_input", "pace is -1"),
        ({}, "unsupported", "no order that this version knows"),
    ]
    for number, (order, _, _) in enumerate(wrong, 2):
        talk.order(number, **order)
    talk.order(len(wrong) + 2, pace={"fps": 24})
    talk.order(len(wrong) + 3, resume={})
    talk.rest()
    told = [(a.refusal.reason, a.refusal.message) for a in talk.answers.values() if a.HasField("refusal")]
    assert len(told) == len(wrong)
    for (reason, message), (_, code, text) in zip(told, wrong, strict=True):
        assert (reason, text in message) == (code, True), message
    assert np.array_equal(talk.frames, known(frames=61))


def test_a_film_that_grows_is_one_file(channel, tmp_path, known):
    talk = Talk(channel, start_of(media=video_spec_pb2.MEDIA_MP4))
    talk.order(1, extend={"seconds": 0.5})
    talk.rest()
    path = tmp_path / "a.mp4"
    path.write_bytes(talk.media)
    with av.open(str(path)) as film:
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(shown) == talk.answers[1].frames == 69
    assert np.abs(np.stack(shown).astype(int) - known(frames=69)).mean() < 12
    places = [offset for offset, _ in talk.begins]
    assert places[0] == 0
    assert places == sorted(places)


def test_an_unset_length_is_a_minute_of_whole_chunks_unless_it_is_settled(channel):
    for settled, seconds, frames in ((False, None, 253), (False, 1, 21), (True, 1, 17)):
        start = start_of(settled=settled)
        start.start.video.ClearField("frames")
        if seconds:
            start.start.video.seconds = seconds
        talk = Talk(channel, start)
        assert talk.next().accepted.plan.frames == frames
        talk.call.cancel()
