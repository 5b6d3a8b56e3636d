"""Live videos under their tenants' quotas: charged once, given back where they were not made, free without any."""

import time
from contextlib import ExitStack
from dataclasses import replace

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from reelray.cluster.gateway import live_quotas, tenant_quotas
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.server import Guard
from reelray.cluster.gateway.tenant_quotas import TenantQuota, TenantQuotas
from reelray.cluster.store.calls import CallLimits, Calls
from reelray.cluster.store.connection import Connection
from reelray.cluster.store.quotas import SlotLimit
from reelray.proto.chunking import Chunking
from reelray.proto.errors import EngineError, StoreError
from reelray.proto.memory_rule import MemoryRule
from reelray.proto.v1 import videos_pb2, videos_pb2_grpc
from tests.support.conversing import Request, Talk, open_tiny, start_of
from tests.support.fake_engine import RECIPE, FakeEngine, fake_entry
from tests.support.gateway import connect, serve
from tests.support.render_calls import Caller, refusal, video
from tests.support.waiting import wait_until

ANN, BOB = "a-token-of-ann-here", "a-token-of-bob-here"
CALLERS = Callers({ANN: "ann", BOB: "bob"})
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
FRAMES = TenantQuota(frames_per_day=10_000)
STREAM = replace(RECIPE, chunking=Chunking(latent_frames=2), memory=MemoryRule(local=4, sink=1))
AS_ANN = (("authorization", f"Bearer {ANN}"),)


@pytest.fixture
def served(shelf):
    """Serves with quotas of `ann`; gives a channel."""
    with ExitStack() as opened:

        def served(quota, engine=None, **how):
            guard = Guard(callers=CALLERS, quotas=TenantQuotas(tenants={"ann": quota}))
            address = opened.enter_context(serve(engine or FakeEngine(), shelf=shelf, guard=guard, together=8, **how))
            return opened.enter_context(connect(address))

        yield served


@pytest.fixture(scope="module")
def tiny(tiny_stream):
    entry, engine = open_tiny(tiny_stream)
    yield entry, engine
    engine.close()


@pytest.fixture
def used(hands):
    return lambda: hands.do(hands.store.quotas.used("ann", FRAMES.frames))


def generate(channel, token=ANN, frames=17, **options):
    wanted = videos_pb2.GenerateRequest(video=video(frames=frames), options=options)
    metadata = (("authorization", f"Bearer {token}"),)
    return videos_pb2_grpc.VideosStub(channel).Generate(wanted, timeout=30, metadata=metadata)


def converse(channel, first):
    return Talk(channel, first, metadata=AS_ANN)


def answer_to(talk, number, **order):
    talk.order(number, **order)
    while number not in talk.answers:
        talk.next()
    return talk.answers[number]


def test_frames_of_live_videos_and_renders_are_one_quota(served, used):
    channel = served(TenantQuota(frames_per_day=40))
    assert list(generate(channel))[-1].HasField("done")
    Caller(channel, ANN).submit(video_spec=video(frames=17))
    assert used() == 34
    code, text, reason, ids, retries = refusal(lambda: generate(channel))
    assert (code, reason, ids["quota"], retries) == (FULL, "quota_exceeded", "frames", True)
    assert "try again in" in text
    assert used() == 34
    assert refusal(lambda: generate(channel, frames=41))[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert list(generate(channel, BOB))[-1].HasField("done")


def test_so_many_begin_in_a_minute(served):
    channel = served(TenantQuota(live_per_minute=2))
    for _ in range(2):
        list(generate(channel))
    code, _, _, ids, retries = refusal(lambda: generate(channel))
    assert (code, ids["quota"], retries) == (FULL, "live", True)
    assert 1000 < int(ids["retry_after_ms"]) <= 30_000


def test_so_many_are_open_and_their_ends_make_room(served, hands):
    channel = served(TenantQuota(open_live=2), FakeEngine(frame_delay_s=0.05))
    running = [generate(channel, frames=401) for _ in range(2)]
    for call in running:
        next(event for event in call if event.HasField("progress"))
    code, _, _, ids, retries = refusal(lambda: generate(channel))
    assert (code, ids["quota"], retries) == (FULL, "live-open", True)
    assert 0 < int(ids["retry_after_ms"]) <= 30_000
    running[0].cancel()
    slots = TenantQuota(open_live=2).live_limits(0).slots
    wait_until(lambda: hands.do(hands.store.quotas.held("ann", slots)) == 1)
    assert list(generate(channel))[-1].HasField("done")
    wait_until(lambda: hands.do(hands.store.quotas.held("ann", slots)) == 1)
    running[1].cancel()


def test_what_is_refused_before_it_begins_is_given_back(served, used):
    channel = served(FRAMES)
    late = Timestamp(seconds=int(time.time()) - 5)
    assert refusal(lambda: generate(channel, deadline=late))[2] == "deadline_unreachable"
    wait_until(lambda: used() == 0)


def test_what_waits_and_leaves_is_given_back_and_what_was_begun_is_not(shelf, used):
    guard = Guard(callers=CALLERS, quotas=TenantQuotas(tenants={"ann": FRAMES}))
    engine = FakeEngine(frame_delay_s=0.1)
    with serve(engine, shelf=shelf, guard=guard) as address, connect(address) as channel:
        first = generate(channel, frames=201)
        next(event for event in first if event.HasField("progress"))
        second = generate(channel)
        next(event for event in second if event.HasField("queued"))
        assert used() == 218
        second.cancel()
        wait_until(lambda: used() == 201)
        first.cancel()
        wait_until(lambda: engine.cancelled)
    assert used() == 201


def test_a_video_that_its_engine_loses_is_not_charged(served, used):
    channel = served(FRAMES, FakeEngine(error=EngineError("lost"), fail_at_frame=8))
    assert refusal(lambda: generate(channel))[0] == grpc.StatusCode.UNAVAILABLE
    wait_until(lambda: used() == 0)


def test_a_video_that_the_end_of_the_server_cuts_off_is_not_charged(shelf, used):
    guard = Guard(callers=CALLERS, quotas=TenantQuotas(tenants={"ann": FRAMES}))
    with ExitStack() as outlives:
        with serve(FakeEngine(frame_delay_s=0.1), shelf=shelf, guard=guard) as address:
            call = generate(outlives.enter_context(connect(address)), frames=401)
            next(event for event in call if event.HasField("progress"))
            assert used() == 401
        assert used() == 0


def test_without_quotas_the_store_hears_nothing(shelf, monkeypatch):
    said = []
    run = Connection.run

    async def watched(self, script, *args):
        said.append(args)
        return await run(self, script, *args)

    with (
        serve(FakeEngine(), shelf=shelf, guard=Guard(callers=CALLERS)) as address,
        connect(address) as channel,
    ):
        list(generate(channel))
        monkeypatch.setattr(Connection, "run", watched)
        list(generate(channel))
        assert said == []
        Caller(channel, ANN).submit()
        assert said, "nothing was watched"


def test_a_session_is_charged_for_what_it_makes_and_once(served, used, tiny):
    entry, engine = tiny
    channel = served(FRAMES, engine, entries=[entry])
    talk = converse(channel, start_of(frames=125, keep_s=60))
    session = talk.next().accepted.session_id
    talk.until("media")
    assert used() == 125
    talk.call.cancel()
    other = converse(channel, Request(go_on={"session_id": session, "after": talk.last}))
    other.last = talk.last
    other.next()
    assert used() == 125
    longer = answer_to(other, 1, extend={"seconds": 0.5}).frames
    assert used() == longer == 133
    assert answer_to(other, 2, say={"prompt": "a star", "seconds": 0}).HasField("refusal")
    assert answer_to(other, 3, seek={"seconds": 100}).HasField("refusal")
    assert used() == 133
    before = len(talk.frames) + len(other.frames)
    back = answer_to(other, 4, seek={"seconds": 0})
    assert back.frame == 0
    assert 133 + before <= used() <= 133 + before + 40  # what was on its way is made again, too
    other.say(leave={})


def test_a_session_cannot_grow_beyond_its_quota(served, used, tiny):
    entry, engine = tiny
    channel = served(TenantQuota(frames_per_day=130), engine, entries=[entry])
    talk = converse(channel, start_of(frames=125))
    talk.until("media")
    for number, order in enumerate(({"extend": {"seconds": 0.5}}, {"fork": {}}), 1):
        refused = answer_to(talk, number, **order).refusal
        assert (refused.reason, refused.metadata["quota"]) == ("quota_exceeded", "frames")
        assert refused.retry_after_ms > 0
    assert used() == 125
    talk.say(leave={})


def test_a_fork_is_charged_for_the_rest_and_counts_as_open(served, used, tiny, hands):
    entry, engine = tiny
    quota = TenantQuota(frames_per_day=1000, open_live=2)
    channel = served(quota, engine, entries=[entry])
    talk = converse(channel, start_of(frames=125))
    talk.until("media")
    fork = answer_to(talk, 1, fork={})
    wait_until(lambda: used() == 125 + 125 - fork.frame)
    assert answer_to(talk, 2, fork={}).refusal.metadata["quota"] == "live-open"
    assert refusal(lambda: converse(channel, start_of()).call)[3]["quota"] == "live-open"
    talk.say(leave={})
    slots = quota.live_limits(0).slots
    wait_until(lambda: hands.do(hands.store.quotas.held("ann", slots)) == 1)


def test_a_session_whose_engine_is_lost_gets_back_what_it_did_not_receive(served, used):
    class Losing(FakeEngine):
        def _events(self, request):
            for event in super()._events(request):
                if getattr(event, "first_frame", 0) >= 8:
                    raise EngineError("lost")
                yield event

    channel = served(FRAMES, Losing(), entries=[fake_entry(recipe=STREAM)])
    talk = converse(channel, Request(start={"video": video(frames=41), "media": 2}))
    talk.next()
    assert refusal(lambda: talk.call)[0] == grpc.StatusCode.UNAVAILABLE
    wait_until(lambda: used() == 8)


def test_what_the_store_did_without_being_heard_is_given_back(served, used, monkeypatch):
    """The store charges and cannot answer; then it cannot be reached when it is to be given back."""
    enter, leave, tries = Calls.enter, Calls.leave, []

    async def charge_unheard(self, *parts):
        await enter(self, *parts)
        raise StoreError("the store did not answer")

    async def leave_at_third(self, *parts):
        tries.append(parts)
        if len(tries) < 3:
            raise StoreError("the store does not answer")
        await leave(self, *parts)

    monkeypatch.setattr(live_quotas, "PAUSE_S", 0.01)
    monkeypatch.setattr(Calls, "enter", charge_unheard)
    monkeypatch.setattr(Calls, "leave", leave_at_third)
    channel = served(FRAMES)
    with pytest.raises(grpc.RpcError) as raised:
        list(generate(channel))
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    wait_until(lambda: used() == 0)
    assert len(tries) == 3


def test_a_slot_lasts_as_long_as_its_video(served, monkeypatch):
    monkeypatch.setattr(tenant_quotas, "LIVE_HOLD_S", 0.6)
    monkeypatch.setattr(live_quotas, "STAY_S", 0.1)
    channel = served(TenantQuota(open_live=1), FakeEngine(frame_delay_s=0.05))
    first = generate(channel, frames=401)
    next(event for event in first if event.HasField("media"))
    for _ in range(4):  # twice as long as a slot is held
        time.sleep(0.3)
        with pytest.raises(grpc.RpcError) as raised:
            list(generate(channel))
        assert raised.value.code() is FULL
    first.cancel()


def test_a_slot_that_was_left_does_not_come_back(hands):
    calls, slots = Calls(hands.store.connection), SlotLimit(name="live-open", limit=1, hold_s=30.0)
    hands.do(calls.enter("ann", "a", CallLimits(slots=slots)))
    hands.do(calls.leave("ann", "a", slots))
    hands.do(calls.stay("ann", "a", slots))
    hands.do(calls.enter("ann", "b", CallLimits(slots=slots)))
