"""`Renders` over a real connection and a real store, with a worker that the test leads."""

from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.server import Guard
from reelray.cluster.store.job import NewJob
from reelray.proto.errors import LeaseLostError
from reelray.proto.v1 import (
    renders_pb2,
    request_options_pb2,
    video_spec_pb2,
    videos_pb2,
    videos_pb2_grpc,
)
from tests.support.fake_engine import FakeEngine, fake_entry
from tests.support.gateway import connect, serve
from tests.support.render_calls import Caller, refusal, submission, video

KEYS = {"a-token-of-ann-here": "ann", "a-token-of-bob-here": "bob"}


def test_a_render_from_submit_to_its_last_byte(caller, hands):
    render = caller.submit(video_spec=video(seed=5, frames=9), priority=7)
    assert (render.state, render.tenant, render.priority) == (renders_pb2.RENDER_STATE_QUEUED, "default", 7)
    assert (render.plan.prompt, render.plan.seed, render.plan.frames, render.plan.model) == ("a disc", 5, 9, "fake")
    assert (render.plan.model_digest, render.plan.steps, render.media) == ("0123abcd", 4, video_spec_pb2.MEDIA_MP4)
    assert (render.bytes, render.HasField("started"), render.events) == (0, False, 1)
    assert caller.get(render.id) == render
    assert hands.claim().ref.id == render.id
    assert caller.get(render.id).attempts == 1
    hands.progress("denoise", 1, 4)
    hands.commit(b"one ")
    hands.commit(b"")
    running = caller.get(render.id)
    assert (running.state, running.bytes, running.attempts) == (renders_pb2.RENDER_STATE_RUNNING, 4, 0)
    assert running.started.ToMilliseconds() >= running.created.ToMilliseconds() > 1.7e12
    hands.commit(b"two")
    hands.finish()
    done = caller.get(render.id)
    assert (done.state, done.bytes, done.error) == (renders_pb2.RENDER_STATE_DONE, 7, "")
    assert done.ended.ToMilliseconds() >= done.started.ToMilliseconds()
    assert (done.summary.frames, done.summary.device, dict(done.summary.stage_seconds)) == (17, "cpu", {"denoise": 1.5})
    assert caller.download(render.id) == b"one two"
    assert caller.List(renders_pb2.ListRendersRequest()).renders == [done]
    told = caller.watch(render.id)
    assert [event.WhichOneof("event") for event in told] == [
        *("state", "state", "progress", "committed", "committed", "committed", "state")
    ]
    assert [event.number for event in told] == list(range(1, 8))
    assert (told[2].progress.stage, told[2].progress.done) == (video_spec_pb2.StageProgress.DENOISE, 1)
    assert told[-1].state == renders_pb2.RENDER_STATE_DONE


def test_the_wish_is_the_one_that_generate_would_make(shelf):
    engine, said = FakeEngine(), {"frames": 9, "seed": 3, "steps": 2, "guidance": 1.5, "fps": 12.5}
    with serve(engine, shelf=shelf) as address, connect(address) as channel:
        render = Caller(channel).submit(video_spec=video(negative_prompt="fog", **said))
        request = videos_pb2.GenerateRequest(video=video(negative_prompt="fog", **said))
        plan = next(videos_pb2_grpc.VideosStub(channel).Generate(request)).accepted.plan
    assert render.plan == plan


def test_a_key_gives_the_same_render_however_often_it_is_sent(caller):
    first = caller.Submit(submission(idempotency_key="k", request_id="one"))
    again = caller.Submit(submission(idempotency_key="k", request_id="two"))
    assert (first.fresh, again.fresh) == (True, False)
    assert first.render.id == again.render.id
    assert caller.submit().id != caller.submit().id
    code, _, reason, ids, retry = refusal(lambda: caller.submit(video_spec=video(frames=5), idempotency_key="k"))
    assert (code, reason, ids["job"], retry) == (*(grpc.StatusCode.ALREADY_EXISTS, "conflict", first.render.id, False),)


WRONG = [
    (submission(video_spec=video(frames=18)), "INVALID_ARGUMENT", "invalid_size", "18 frames"),
    (submission(video_spec=video(prompt=" ")), "INVALID_ARGUMENT", "invalid_prompt", "empty"),
    (submission(video_spec=video(model="nope")), "NOT_FOUND", "unknown_model", "models here: fake"),
    (submission(media=2), "UNIMPLEMENTED", "unsupported", "MEDIA_RGB24"),
    (submission(media=9), "INVALID_ARGUMENT", "invalid_input", "MEDIA_MP4"),
    (submission(deadline=Timestamp(seconds=-9)), "INVALID_ARGUMENT", "invalid_input", "deadline is no time"),
    (submission(quality=3), "UNIMPLEMENTED", "unsupported", "options.quality"),
    (submission(quality=9), "INVALID_ARGUMENT", "invalid_input", "QUALITY_EXACT"),
    (submission(budget={"gpu_seconds": 3}), "UNIMPLEMENTED", "unsupported", "options.budget"),
    (submission(budget={}), "UNIMPLEMENTED", "unsupported", "options.budget"),
    (submission(priority=101), "INVALID_ARGUMENT", "invalid_input", "-100 to 100"),
    (submission(tenant="a:b"), "INVALID_ARGUMENT", "invalid_input", "tenant"),
    (submission(idempotency_key="k" * 257), "INVALID_ARGUMENT", "invalid_input", "idempotency_key"),
    (submission(request_id="no name"), "INVALID_ARGUMENT", "invalid_input", "request_id"),
    (
        renders_pb2.SubmitRenderRequest(
            video=video(), options=request_options_pb2.RequestOptions.FromString(b"\xf8\x07\x01")
        ),
        *("UNIMPLEMENTED", "unsupported", "fields [127]"),
    ),
]


def test_wrong_wishes_are_refused_precisely_and_leave_no_job(caller):
    for wanted, code, reason, text in WRONG:
        found = refusal(lambda wanted=wanted: caller.Submit(wanted))
        assert (found[0].name, found[2], found[4]) == (code, reason, False)
        assert text in found[1]
    assert not caller.List(renders_pb2.ListRendersRequest()).renders


def test_exact_quality_is_what_there_is(caller):
    assert caller.submit(quality=request_options_pb2.QUALITY_EXACT).id


def test_generate_refuses_options_that_would_change_nothing():
    with serve(FakeEngine()) as address, connect(address) as channel:
        generate = videos_pb2_grpc.VideosStub(channel).Generate
        for options, name in (({"quality": 3}, "quality"), ({"idempotency_key": "k"}, "idempotency_key")):
            request = videos_pb2.GenerateRequest(video=video(), options=options)
            code, text, *_ = refusal(lambda request=request: generate(request))
            assert (code, f"options.{name}" in text) == (grpc.StatusCode.UNIMPLEMENTED, True)
        request = videos_pb2.GenerateRequest(video=video(), options={"request_id": "mine", "tenant": "ann"})
        assert list(generate(request))[-1].HasField("done")
    with serve(FakeEngine(error=KeyError("x"))) as address, connect(address) as channel:
        found = refusal(lambda: videos_pb2_grpc.VideosStub(channel).Generate(request))
        assert found[3]["caller_request"] == "mine"


def test_pages_hold_every_render_once_whatever_comes_meanwhile(caller):
    made = [caller.submit(video_spec=video(prompt=f"number {n}")).id for n in range(7)]
    first = caller.List(renders_pb2.ListRendersRequest(page_size=3))
    late = caller.submit().id
    found = [render.id for render in first.renders]
    page = first
    while page.next_page_token:
        page = caller.List(renders_pb2.ListRendersRequest(page_size=3, page_token=page.next_page_token))
        found += [render.id for render in page.renders]
    assert found == made[::-1]
    assert late not in found
    caller.Cancel(renders_pb2.CancelRenderRequest(id=made[2]))
    cancelled = caller.List(renders_pb2.ListRendersRequest(state=renders_pb2.RENDER_STATE_CANCELLED))
    assert [render.id for render in cancelled.renders] == [made[2]]
    for wrong in ({"page_size": 101}, {"page_token": "x"}, {"state": 77}):
        assert refusal(lambda wrong=wrong: caller.List(renders_pb2.ListRendersRequest(**wrong)))[0] is (
            grpc.StatusCode.INVALID_ARGUMENT
        )


def test_a_page_of_long_prompts_is_shorter_than_a_message(caller, hands):
    long = caller.submit(video_spec=video(prompt="x" * 2000, negative_prompt="y" * 2000))
    spec = hands.do(hands.store.jobs.get(hands.do(hands.store.jobs.list("default")).jobs[0].ref)).spec
    spec["request"]["prompt"] = "x" * 900_000
    for n in range(4):
        hands.do(hands.store.jobs.submit(NewJob(tenant="default", spec={**spec, "fps": str(n + 1)})))
    found, token, pages = [], "", 0
    while True:
        page = caller.List(renders_pb2.ListRendersRequest(page_token=token))
        assert page.ByteSize() < 2 * 2**20
        found += [render.plan.fps.numerator for render in page.renders]
        token, pages = page.next_page_token, pages + 1
        if not token:
            break
    assert found == [4, 3, 2, 1, long.plan.fps.numerator]
    assert pages >= 4


def test_other_tenants_renders_are_as_unknown_as_none(shelf):
    ann, bob = KEYS
    with serve(FakeEngine(), shelf=shelf, guard=Guard(callers=Callers(KEYS))) as address, connect(address) as channel:
        render = Caller(channel, ann).submit()
        assert render.tenant == "ann"
        thief = Caller(channel, bob)
        requests = [
            thief.get,
            lambda i: thief.Cancel(renders_pb2.CancelRenderRequest(id=i)),
            thief.watching,
            thief.downloading,
        ]
        for ask in requests:
            theirs, nobodys = (refusal(lambda i=i, ask=ask: ask(i)) for i in (render.id, "f" * 32))
            assert theirs[0] is nobodys[0] is grpc.StatusCode.NOT_FOUND
            assert theirs[1].replace(render.id, "") == nobodys[1].replace("f" * 32, "")
        assert not thief.List(renders_pb2.ListRendersRequest()).renders
        for named in ("ann", "a:b"):
            code, text, *_ = refusal(lambda named=named: thief.Get(renders_pb2.GetRenderRequest(id="x", tenant=named)))
            assert (code, "belongs to 'bob'" in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        assert Caller(channel, ann).get(render.id).id == render.id
        with pytest.raises(grpc.RpcError) as raised:
            Caller(channel, "a-token-of-nobody-here").get(render.id)
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_ids_that_are_none_are_unknown(caller):
    for wrong in ("", "../../etc/passwd", "a:b", "x" * 70_000, "nul\0"):
        assert refusal(lambda wrong=wrong: caller.get(wrong))[0] is grpc.StatusCode.NOT_FOUND


def test_cancel_ends_a_render_and_does_no_harm_twice(caller, hands):
    render = caller.submit()
    hands.claim()
    hands.commit(b"some")
    for _ in range(2):
        said = caller.Cancel(renders_pb2.CancelRenderRequest(id=render.id))
        assert (said.state, said.error) == (renders_pb2.RENDER_STATE_CANCELLED, "cancelled by its owner")
    assert caller.watch(render.id)[-1].state == renders_pb2.RENDER_STATE_CANCELLED
    with pytest.raises(LeaseLostError):
        hands.commit(b"more")


def test_without_an_archive_there_is_no_such_service():
    with serve(FakeEngine()) as address, connect(address) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            Caller(channel).submit()
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_render_of_a_model_that_is_gone_waits_and_says_so(shelf, caller):
    render = caller.submit()
    entry = fake_entry(path=Path("/models/other"))
    with serve(FakeEngine(), entries=[entry], shelf=shelf) as address, connect(address) as channel:
        later = Caller(channel)
        listed = later.List(renders_pb2.ListRendersRequest()).renders
        assert [one.error for one in listed] == ["it waits for model 'fake', which is not served here now"]
        assert later.get(render.id).error == listed[0].error
    assert caller.get(render.id).error == ""
