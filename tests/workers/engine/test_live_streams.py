"""Streams that are changed while they run: what is said live gives the bytes of what was known in advance."""

import itertools
import random
from dataclasses import replace

import pytest

from reelray.proto.errors import EndedError, InputError, LateError, SizeError, UnsupportedError
from reelray.proto.memory_rule import MemoryRule, Sink
from reelray.proto.request import PromptChange
from reelray.proto.session import Extend, Pause, Resume, Say, Stop
from reelray.scheduler.limits import EngineLimits
from reelray.workers.models.registry import open_checkpoint
from tests.support.latent_pictures import LatentPictures
from tests.support.live_cases import RULES, Drive, begins, live_request, rolling_request, run_whole, said

STAR, HEART = "a blue star spins", "a pink heart"


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return LatentPictures(open_checkpoint(tiny_t2v, device="cpu"))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("rule", RULES)
def test_prompts_said_live_give_the_bytes_of_prompts_known_in_advance(model, rule, guidance):
    request = live_request(rule, guidance=guidance)
    drive = Drive(model)
    drive.submit(request)
    drive.run(begins(1))
    first = drive.core.tell("a", Say(prompt=STAR))
    drive.run(begins(3))
    second = drive.core.tell("a", Say(prompt=HEART))
    drive.run()
    assert (first.frame, second.frame) == (13, 29)  # chunks 2 and 4 begin at latent frames 4 and 8
    assert drive.videos["a"] == run_whole(model, said(request, (4, STAR), (8, HEART)))
    assert drive.videos["a"] != run_whole(model, request)


def test_a_scene_beyond_the_positions_of_the_model_is_refused_when_it_is_asked_for(model):
    """Each scene of a pinned sink stands farther on; the model tells 64 positions apart."""
    memory = MemoryRule(local=4, sink=2, sink_kind=Sink.PINNED, scene_shift=27)
    request, other = live_request("keep"), live_request("keep", "b")
    request = replace(request, recipe=replace(request.recipe, memory=memory))
    drive = Drive(model)
    for one in (request, other):
        drive.submit(one)
    drive.run(begins(1))
    drive.core.tell("a", Say(prompt=STAR, cut=True, latent_frame=4))
    drive.core.tell("a", Say(prompt=HEART, latent_frame=8))
    with pytest.raises(SizeError, match=r"^45 frames with 2 more scenes are too many .* at most 37$"):
        drive.core.tell("a", Say(prompt=HEART, cut=True, latent_frame=8))
    with pytest.raises(SizeError, match=r"^149 frames with 1 more scenes are too many .* at most 145$"):
        drive.core.tell("a", Extend(latent_frames=26))
    drive.run()
    assert not drive.failures
    cut = PromptChange(latent_frame=4, prompt=STAR, cut=True), PromptChange(latent_frame=8, prompt=HEART)
    assert drive.videos == {"a": run_whole(model, replace(request, changes=cut)), "b": run_whole(model, other)}


@pytest.mark.parametrize("rule", ["recache", "recache, last step"])
def test_a_prompt_may_be_said_at_any_moment_of_a_stream(model, rule):
    """Also while a plan is in flight; it then holds from the first chunk of which no step was issued."""
    request = live_request(rule, latent_frames=8)
    whole = [run_whole(model, replace(request, prompt=STAR))]
    whole += [run_whole(model, said(request, (first, STAR))) for first in (2, 4, 6)]
    whole.append(run_whole(model, request))
    found = set()
    for moment, in_flight in itertools.product(range(2, 14), (False, True)):
        drive, heard = Drive(model, EngineLimits()), []

        def speak(drive=drive, heard=heard):
            try:
                heard.append(drive.core.tell("a", Say(prompt=STAR)).frame)
            except InputError:
                heard.append(None)

        drive.submit(request)
        for _ in range(moment):
            drive.step()
        begun = max((window.chunk + 1 for window in drive.windows), default=0)
        if in_flight:
            if drive.step(speak) is None:
                speak()
            begun = max(window.chunk + 1 for window in drive.windows)
        else:
            speak()
        assert heard == [[0, 5, 13, 21, None][begun]]  # the last one: all have begun, or the stream has ended
        drive.run()
        assert drive.videos["a"] == whole[begun], (moment, in_flight)
        found.add(begun)
    assert found == {1, 2, 3, 4}


@pytest.mark.parametrize("rule", ["recache", "flush"])
def test_what_was_said_survives_the_loss_of_the_rank(model, rule):
    request = live_request(rule, latent_frames=8)
    whole = run_whole(model, said(request, (4, STAR)))
    for moment in range(8):
        drive = Drive(model)
        drive.submit(request)
        drive.run(begins(1))
        drive.core.tell("a", Say(prompt=STAR))
        for _ in range(moment):
            drive.step()
        drive.lose()
        drive.run()
        assert drive.videos["a"] == whole, moment


def test_a_prompt_never_changes_frames_that_were_sent_before_a_loss(model):
    """The new ranks begin an earlier chunk anew, whose frames the client may have."""
    request = live_request("keep", latent_frames=8)
    drive = Drive(model, EngineLimits())  # nothing is written down: everything is made again
    drive.submit(request)
    drive.run(begins(2))
    drive.lose()
    drive.run(begins(0))
    standing = drive.core.tell("a", Say(prompt=STAR))
    drive.run()
    assert standing.frame == 21
    assert drive.videos["a"] == run_whole(model, said(request, (6, STAR)))


def test_the_latest_of_two_prompts_for_one_chunk_counts(model):
    request = said(live_request("recache"), (5, "never seen"), (9, HEART))
    drive = Drive(model)
    drive.submit(request)
    drive.run(begins(1))
    drive.core.tell("a", Say(prompt="gone at once"))
    drive.core.tell("a", Say(prompt="gone too", latent_frame=5))
    drive.core.tell("a", Say(prompt=STAR, latent_frame=6))
    drive.core.tell("a", Say(prompt="a green square"))
    drive.run()
    wanted = said(request, (4, "a green square"), (6, STAR), (9, HEART))
    assert drive.videos["a"] == run_whole(model, wanted)


@pytest.mark.parametrize("rule", ["recache", "recache, last step"])
def test_a_stream_that_grows_is_the_longer_stream(model, rule):
    whole = run_whole(model, live_request(rule, latent_frames=8))
    for moment in range(2, 15):
        drive = Drive(model)
        drive.submit(live_request(rule, latent_frames=4))
        for _ in range(moment):
            drive.step()
        if drive.finished:
            with pytest.raises(InputError, match="not here"):
                drive.core.tell("a", Extend(latent_frames=4))
            break
        standing = drive.core.tell("a", Extend(latent_frames=4))
        assert standing.frames == 29
        drive.run()
        assert drive.videos["a"] == whole, moment


@pytest.mark.parametrize("rule", ["recache", "recache, last step"])
def test_a_stream_that_is_stopped_ends_with_what_has_begun(model, rule):
    request = live_request(rule, latent_frames=8)
    whole, lengths = run_whole(model, request), set()
    for moment in range(1, 16):
        drive = Drive(model, EngineLimits())
        drive.submit(request)
        for _ in range(moment):
            drive.step()
        if drive.finished:
            break
        begun = max(1, *(window.chunk + 1 for window in drive.windows), 0)
        standing = drive.core.tell("a", Stop())
        assert standing.frames == 8 * begun - 3
        drive.run()
        assert drive.videos["a"] == whole[: standing.frames * 48 * 32 * 3]
        assert drive.finished == ([] if standing.finished else ["a"])
        assert not drive.rank._held
        lengths.add(standing.frames)
    assert lengths == {5, 13, 21, 29}


def test_a_paused_stream_does_nothing_and_then_goes_on(model):
    request, other = live_request("recache", latent_frames=8), live_request("keep", "b", seed=9, latent_frames=8)
    drive = Drive(model)
    drive.submit(request)
    drive.submit(other)
    for _ in range(6):
        drive.step()
    assert drive.core.tell("a", Pause()).paused
    drive.step()
    before = len(drive.videos["a"])
    drive.windows.clear()
    drive.run()
    assert {window.request_id for window in drive.windows} == {"b"}
    assert len(drive.videos["a"]) == before
    assert not drive.core.tell("a", Resume()).paused
    drive.run()
    assert drive.videos["a"] == run_whole(model, request)
    assert drive.videos["b"] == run_whole(model, other)


def test_orders_that_come_too_late_are_refused_and_change_nothing(model):
    request = live_request("recache", latent_frames=6)
    drive = Drive(model)
    drive.submit(request)
    drive.run(begins(1))
    with pytest.raises(LateError, match="the chunk has begun") as late:
        drive.core.tell("a", Say(prompt=STAR, latent_frame=2))
    assert late.value.ids["latent_frame"] == "4"
    with pytest.raises(LateError, match="after the end of the video: no chunk begins then"):
        drive.core.tell("a", Say(prompt=STAR, latent_frame=5))
    with pytest.raises(UnsupportedError, match="one scene"):
        drive.core.tell("a", Say(prompt=STAR, cut=True))
    with pytest.raises(EndedError, match="request b is not here"):
        drive.core.tell("b", Say(prompt=STAR))
    with pytest.raises(SizeError, match="too many"):
        drive.core.tell("a", Extend(latent_frames=5000))
    drive.run(begins(2))
    with pytest.raises(LateError, match="too late: the last chunk of the video has begun"):
        drive.core.tell("a", Say(prompt=STAR))
    drive.run()
    assert drive.videos["a"] == run_whole(model, request)
    with pytest.raises(EndedError, match="all of it is made"):
        drive.core.tell("a", Say(prompt=STAR))


def test_a_shorter_last_chunk_that_has_begun_cannot_be_extended(model):
    drive = Drive(model)
    drive.submit(live_request("keep", latent_frames=5))
    drive.run(begins(1))
    assert drive.core.tell("a", Extend(latent_frames=2)).frames == 25  # seven latent frames
    drive.run(begins(3))
    with pytest.raises(InputError, match="shorter than the others"):
        drive.core.tell("a", Extend(latent_frames=2))
    drive.run()
    assert drive.videos["a"] == run_whole(model, live_request("keep", latent_frames=7))


def test_prompts_that_are_over_take_no_memory(model):
    request = live_request("keep", latent_frames=40, guidance=3.0)
    drive = Drive(model)
    drive.submit(request)
    for number in range(1, 12):
        drive.run(begins(number))
        drive.core.tell("a", Say(prompt=f"prompt {number}"))
    drive.step()
    held = drive.rank._held["a"]
    assert set(held._texts._contexts) <= {"prompt 10", "prompt 11", request.negative_prompt}
    drive.lose()
    drive.run(begins(13))
    assert set(drive.rank._held["a"]._texts._contexts) <= {"prompt 11", request.negative_prompt}


def test_random_orders_give_the_bytes_of_the_request_they_amount_to(model):
    for seed in range(5):
        rng = random.Random(seed)
        request = live_request(rng.choice(sorted(RULES)), latent_frames=8, seed=seed)
        wanted, drive = request, Drive(model)
        drive.submit(request)
        for number in range(5):
            for _ in range(rng.randint(1, 6)):
                drive.step()
            if rng.random() < 0.3:
                drive.lose()
            order = rng.choice([Say(prompt=f"prompt {number}"), Extend(latent_frames=2), Pause()])
            try:
                standing = drive.core.tell("a", order)
            except InputError:
                continue
            wanted = replace(wanted, frames=standing.frames)
            if isinstance(order, Say):
                first = (standing.frame - 1) // 4 + 1
                kept = tuple(change for change in wanted.changes if change.latent_frame < first)
                changed = (*kept, PromptChange(latent_frame=max(1, first), prompt=order.prompt))
                wanted = replace(wanted, changes=changed) if first else replace(wanted, prompt=order.prompt)
            if isinstance(order, Pause):
                drive.core.tell("a", Resume())
        drive.run()
        assert drive.videos["a"] == run_whole(model, wanted), seed


def test_chunks_in_flight_are_talked_to(model):
    """A window goes by the prompt of the newest chunk in it, so that one counts as begun."""
    request = rolling_request()
    for moment in range(2, 7):
        drive = Drive(model)
        drive.submit(request)
        for _ in range(moment):
            drive.step()
        begun = max(slot.chunk + 1 for window in drive.windows for slot in window.chunks)
        standing = drive.core.tell("a", Say(prompt=STAR))
        assert standing.frame == 8 * begun - 3
        longer = drive.core.tell("a", Extend(latent_frames=2)).frames
        if moment % 2:
            drive.lose()
        drive.run()
        wanted = replace(said(request, (2 * begun, STAR)), frames=longer)
        assert drive.videos["a"] == run_whole(model, wanted), moment


def test_chunks_in_flight_end_with_those_that_have_begun_and_then_stay_so_many(model):
    drive = Drive(model)
    drive.submit(rolling_request())
    for _ in range(3):
        drive.step()
    begun = max(slot.chunk + 1 for window in drive.windows for slot in window.chunks)
    frames = drive.core.tell("a", Stop()).frames
    assert frames == 8 * begun - 3 < 45
    with pytest.raises(InputError, match="in flight"):
        drive.core.tell("a", Extend(latent_frames=2))
    drive.run()
    assert drive.videos["a"] == run_whole(model, rolling_request(latent_frames=2 * begun))
