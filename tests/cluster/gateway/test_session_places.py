"""Sessions wait for an engine as videos do, go before renders, and give their place away while nothing is made."""

import asyncio
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from reelray.cluster.coordinator.desk import Desk
from reelray.cluster.coordinator.messages import Asked, Begin, Ended, Joined, Left, Moved, Turned, Waits, Word
from reelray.cluster.gateway import conversations, server, services, session_place
from reelray.cluster.gateway.conversations import ConverseLimits
from reelray.cluster.gateway.served_models import ServedModel, ServedModels
from reelray.cluster.gateway.session_place import SessionPlace, Urgency
from reelray.cluster.render import RenderOptions, plan_job
from reelray.proto.chunking import Chunking
from reelray.proto.errors import CoordinatorError
from reelray.proto.memory_rule import MemoryRule
from reelray.proto.v1 import renders_pb2, videos_pb2, videos_pb2_grpc
from reelray.scheduler.fleet.decision import Reason
from reelray.scheduler.fleet.ticket import EngineId, Kind, Service
from tests.support.conversing import Request, Talk, open_tiny, start_of
from tests.support.coordinated import serve_house
from tests.support.fake_engine import RECIPE, FakeEngine, fake_entry
from tests.support.gateway import connect, serve
from tests.support.render_calls import Caller, refusal, video
from tests.support.waiting import wait_until

STREAM = replace(RECIPE, chunking=Chunking(latent_frames=2), memory=MemoryRule(local=4, sink=1))


@pytest.fixture(scope="module")
def tiny(tiny_stream):
    entry, engine = open_tiny(tiny_stream)
    yield entry, engine
    engine.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Who receives nothing is held back soon, and keeps its place."""
    monkeypatch.setattr(services, "ConverseLimits", lambda: ConverseLimits(window_bytes=50_000))
    monkeypatch.setattr(session_place, "UNREAD_S", 600.0)


@contextmanager
def served(tiny):
    entry, engine = tiny
    with serve(engine, entries=[entry]) as address, connect(address) as channel:
        yield channel


def running(tiny):
    return len(tiny[1]._leader._clients.streams)


def kinds_of(talk, *, until):
    kinds = []
    while until not in kinds:
        kinds.append(talk.next().WhichOneof("event"))
    return kinds


def timestamp(after_s):
    made = Timestamp()
    made.FromMilliseconds(round(1000 * (time.time() + after_s)))
    return made


def test_a_session_waits_for_another_and_hears_how_it_stands(tiny):
    with served(tiny) as channel:
        first = Talk(channel, start_of(frames=253, keep_s=9))
        first.until("media")
        second = Talk(channel, start_of())
        queued = second.next().queued
        assert (queued.position, queued.HasField("predicted_start")) == (1, True)
        third = Talk(channel, start_of(options={"priority": 5}))
        assert third.next().queued.position == 2
        assert running(tiny) == 1
        first.say(leave={})
        kinds = kinds_of(third, until="media")
        assert set(kinds[: kinds.index("accepted")]) <= {"queued"}
        third.rest()
        kinds_of(second, until="accepted")
        assert len(second.rest().frames) == 61


def test_who_leaves_while_it_waits_leaves_no_trace(tiny):
    with served(tiny) as channel:
        first = Talk(channel, start_of(frames=253, keep_s=9))
        first.until("media")
        gone, last = Talk(channel, start_of()), Talk(channel, start_of())
        for talk in (gone, last):
            talk.until("queued")
        gone.call.cancel()
        wait_until(lambda: last.until("queued").position == 1)
        first.say(leave={})
        assert len(last.rest().frames) == 61
        wait_until(lambda: running(tiny) == 0)


def test_a_deadline_by_which_it_cannot_begin_is_refused_at_once_with_the_time(tiny):
    with served(tiny) as channel:
        first = Talk(channel, start_of(frames=253, keep_s=9, pace_fps=4))
        first.until("media")
        code, text, reason, ids, retry = refusal(
            lambda: Talk(channel, start_of(options={"deadline": timestamp(5)})).call
        )
        assert (code, reason, retry) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "deadline_unreachable", True)
        assert "the deadline cannot be kept; it would be done in about" in text
        assert ids["predicted_finish"]
        first.say(leave={})


def test_where_nobody_decides_sessions_are_told_to_come_back(tiny, monkeypatch):
    monkeypatch.setattr(server, "coordinate_alone", lambda models: Desk("alone", models, patience_s=0.1))
    with served(tiny) as channel:
        code, _, reason, _, retry = refusal(lambda: Talk(channel, start_of()).call)
        assert (code, reason, retry) == (grpc.StatusCode.UNAVAILABLE, "coordinator_lost", True)


def test_a_paused_session_gives_its_place_away_and_goes_on_beside_others(tiny, monkeypatch, known):
    monkeypatch.setattr(session_place, "LOOK_S", 0.05)
    monkeypatch.setattr(conversations, "LOOK_S", 0.05)
    monkeypatch.setattr(session_place, "UNREAD_S", 0.2)
    with served(tiny) as channel:
        first = Talk(channel, start_of(frames=125))
        first.until("media")
        first.order(1, pause={})
        second = Talk(channel, start_of(frames=253, keep_s=9))
        second.until("accepted")  # not before the first has given its place away
        second.until("media")
        first.order(2, resume={})
        assert (first.rest().frames == known(frames=125)).all()
        second.say(leave={})


def test_a_session_stops_a_render_at_its_next_step(shelf, tiny):
    entry, engine = tiny
    with serve_house(shelf, ServedModel(entry, lambda: engine)) as here, connect(here.address) as channel:
        caller = Caller(channel)
        long = {"frames": 253, "size": {"width": 48, "height": 32}}
        render = caller.submit(video_spec=video(prompt="a red circle", **long))
        states = (e.state for e in caller.watching(render.id) if e.WhichOneof("event") == "state")
        assert next(states) == renders_pb2.RENDER_STATE_QUEUED
        assert next(states) == renders_pb2.RENDER_STATE_RUNNING
        talk = Talk(channel, start_of(frames=253, keep_s=9))
        talk.until("accepted")
        assert next(states) == renders_pb2.RENDER_STATE_QUEUED  # it had made room before
        talk.say(leave={})
        assert next(states) == renders_pb2.RENDER_STATE_RUNNING
        caller.Cancel(renders_pb2.CancelRenderRequest(id=render.id))


def test_a_server_that_ends_begins_no_session_that_waits(tiny):
    entry, engine = tiny
    heard = []
    with serve(engine, entries=[entry], grace_s=5) as address:
        channel = grpc.insecure_channel(address)
        first = Talk(channel, start_of(frames=253, keep_s=9))
        first.until("media")
        second = Talk(channel, start_of())
        second.until("queued")
        waiting = threading.Thread(target=lambda: heard.append(refusal(lambda: second.call)))
        waiting.start()
    waiting.join(20)
    channel.close()
    code, text, *_, retry = heard[0]
    assert (code, retry) == (grpc.StatusCode.UNAVAILABLE, True)
    assert "the server ends" in text


def test_videos_and_sessions_wait_in_one_line(tiny):
    with served(tiny) as channel:
        first = Talk(channel, start_of(frames=253, keep_s=9))
        first.until("media")
        wanted = videos_pb2.GenerateRequest(video=start_of().start.video)
        call = videos_pb2_grpc.VideosStub(channel).Generate(wanted)
        assert [next(call).WhichOneof("event") for _ in range(2)] == ["accepted", "queued"]
        first.say(leave={})
        assert list(call)[-1].HasField("done")


def test_a_fork_begins_at_once_beside_its_parent(tiny):
    with served(tiny) as channel:
        first = Talk(channel, start_of(frames=253, keep_s=9))
        first.until("media")
        first.order(1, fork={})
        while 1 not in first.answers:
            first.next()
        fork = Talk(channel, Request(go_on={"session_id": first.answers[1].fork}))
        assert fork.next().WhichOneof("event") == "accepted"
        fork.until("media")
        for talk in (fork, first):
            talk.say(leave={})


class Books:
    """A coordinator that decides what a test says."""

    def __init__(self, desk):
        self.desk, self.said = desk, []
        desk.connect(1, self.said.append)

    def decide(self, kind, name, **rest):
        self.desk.hear(Word(fence=1, decision=kind(request_id=name, **rest)))

    def begin(self, name, run):
        self.decide(Begin, name, engine_id=EngineId("h/fake"), gpus=1, run=run, work_s=1.0)

    def told(self):
        found = [(type(one), getattr(one, "run", None)) for one in self.said]
        self.said.clear()
        return found


def with_place(case, monkeypatch, **urgency):
    monkeypatch.setattr(session_place, "AGAIN_S", 0.05)

    async def run():
        entry = fake_entry(recipe=STREAM)
        desk = Desk("h", ServedModels([ServedModel(entry, FakeEngine)]), patience_s=0.05)
        books = Books(desk)
        job = plan_job(RenderOptions(prompt="a disc", stream=True, pace=8.0), entry)
        place = SessionPlace(desk, job, "fake", Urgency(tenant="t", **urgency))
        await case(books, place, job.request)
        place.leave()
        assert not desk._visits

    asyncio.run(run())


def test_what_is_asked_for_a_session(monkeypatch):
    async def case(books, place, request):
        entering = asyncio.create_task(place.enter(heard.append))
        await asyncio.sleep(0)
        assert [type(one) for one in books.said] == [Joined, Asked]
        wish = books.said[-1].wish
        assert (wish.kind, wish.service, wish.priority, wish.within_s) == (Kind.STREAM, Service.INTERACTIVE, 7, 60.0)
        assert wish.lasts_s == request.frames / 8
        books.begin(request.request_id, 4)
        await entering
        books.told()
        place.leave()
        assert books.told() == [(Ended, 4)]

    heard = []
    with_place(case, monkeypatch, priority=7, within_s=60.0)


def test_a_place_is_given_back_and_asked_for_again(monkeypatch):
    async def case(books, place, request):
        entering = asyncio.create_task(place.enter(lambda _: asyncio.sleep(0)))
        await asyncio.sleep(0)
        books.begin(request.request_id, 1)
        await entering
        books.told()
        monkeypatch.setattr(session_place, "UNREAD_S", 5.0)
        still = round(session_place.UNREAD_S / session_place.LOOK_S)
        for _ in range(still - 1):
            place.look(works=False, done=3, total=12)
        place.look(works=True, done=3, total=12)
        for _ in range(still):
            assert (Ended, 1) not in books.told()
            place.look(works=False, done=3, total=12)
        assert (Ended, 1) in books.told()
        place.look(works=False, done=3, total=12)
        place.look(works=True, done=3, total=12)
        (asked,) = books.said
        assert asked.wish.request_id == f"{request.request_id}.1"
        assert (asked.wish.left, asked.wish.within_s) == (0.75, None)
        await asyncio.sleep(0)
        books.decide(Turned, asked.wish.request_id, reason=Reason.LATE)
        books.told()
        await asyncio.sleep(0.2)
        place.look(works=True, done=6, total=12)  # it goes on without one, and asks again
        (asked,) = books.said
        assert asked.wish.request_id == f"{request.request_id}.2"
        await asyncio.sleep(0)
        books.decide(Waits, asked.wish.request_id, position=1, start_s=3.0)
        books.begin(asked.wish.request_id, 9)
        await asyncio.sleep(0.2)
        books.told()
        place.look(works=True, done=9, total=12)
        assert books.told() == [(Moved, 9)]
        place.leave()
        assert books.told() == [(Ended, 9)]

    with_place(case, monkeypatch)


def test_who_gets_no_place_stands_in_no_line(monkeypatch):
    async def case(books, place, _request):
        with pytest.raises(CoordinatorError):
            await place.enter(lambda _: asyncio.sleep(0))
        assert (Left, None) in books.told()

    with_place(case, monkeypatch)
