"""`Videos.Converse` where lines break, clients are rude and servers end."""

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import replace

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from reelray.cluster.coordinator.local_line import coordinate_alone
from reelray.cluster.gateway import services
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.conversations import Conversations, ConverseLimits
from reelray.cluster.gateway.converse_orders import check_prompts
from reelray.cluster.gateway.served_models import ServedModel, ServedModels
from reelray.cluster.gateway.server import Guard
from reelray.cluster.gateway.session_place import Urgency
from reelray.proto.chunking import Chunking
from reelray.proto.errors import EngineError, InputError, ResourceError
from reelray.proto.memory_rule import MemoryRule
from reelray.proto.request import PromptChange
from reelray.proto.session import Pause, Resume
from tests.support.conversing import FRAME_BYTES, SILENCE, Request, Talk, connect, open_tiny, start_of
from tests.support.fake_engine import RECIPE, FakeEngine, fake_entry
from tests.support.free_quotas import free_quotas
from tests.support.gateway import serve
from tests.support.requests import make_request
from tests.support.waiting import wait_until

ANN, BOB = "a-token-of-ann-here", "a-token-of-bob-here"


class Watched:
    """An engine whose orders are noted."""

    def __init__(self, engine):
        self._engine, self.told = engine, []

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def tell(self, request_id, order):
        self.told.append(order)
        return self._engine.tell(request_id, order)

    @property
    def running(self):
        return list(self._engine._leader._clients.streams)


def test_sessions_that_are_being_opened_count():
    """Many that come at once do not all find the room that one would take; nothing is kept of who has left."""

    class Slow:
        async def plan(self, *_):
            await opened.wait()
            raise InputError("nothing is wrong but this")

    async def case():
        models = ServedModels([ServedModel(fake_entry(), FakeEngine)])
        sessions = Conversations(models, Slow(), ConverseLimits(most=3), coordinate_alone(models), free_quotas())
        start = start_of().start
        opening = [asyncio.create_task(sessions.begin(start, Urgency(tenant=f"t{n}"), {}, print)) for n in range(5)]
        await asyncio.sleep(0)
        assert [isinstance(task.exception(), ResourceError) for task in opening if task.done()] == [True, True]
        opened.set()
        await asyncio.gather(*opening, return_exceptions=True)
        sessions.check_room("another")
        assert not sessions._tenants
        sessions.close()

    opened = asyncio.Event()
    asyncio.run(case())


@pytest.fixture(scope="module")
def tiny(tiny_stream):
    entry, engine = open_tiny(tiny_stream)
    yield entry, engine
    engine.close()


@pytest.fixture
def served(tiny, monkeypatch):
    """Serve under some limits; gives the channel and the engine."""

    @contextmanager
    def served(*, guard=None, **limits):
        entry, engine = tiny
        watched = Watched(engine)
        monkeypatch.setattr(services, "ConverseLimits", lambda: ConverseLimits(**limits))
        with serve(watched, entries=[entry], guard=guard, together=8) as address, connect(address) as channel:
            yield channel, watched
            wait_until(lambda: not watched.running)

    return served


def status_of(call):
    """How a call ended: its status, the error's code, and whether trying again is hinted at."""
    with pytest.raises(grpc.RpcError) as raised:
        list(call)
    status = rpc_status.from_call(raised.value)
    info, hint = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    details = [] if status is None else status.details
    reasons = [info.reason for detail in details if detail.Unpack(info)]
    return raised.value.code().name, *reasons, any(detail.Is(hint.DESCRIPTOR) for detail in details)


def go_on(talk, **how):
    return Request(go_on={"session_id": talk.session, "after": talk.last, **how})


def begin(channel, *, frames=125, media=1, **how):
    """A session from which some media have come."""
    talk = Talk(channel, start_of(frames=frames, **how))
    talk.session = talk.next().accepted.session_id
    for _ in range(media):
        talk.until("media")
    return talk


def test_a_session_goes_on_behind_what_arrived_when_its_line_broke(served, known):
    with served() as (channel, engine):
        talk = begin(channel, keep_s=60, media=3)
        talk.order(1, extend={"seconds": 0.5})
        while 1 not in talk.answers:
            talk.next()
        talk.call.cancel()
        wait_until(lambda: Pause() in engine.told)
        other = Talk(channel, go_on(talk))
        other.last = talk.last
        assert other.next().accepted.commands == 1
        wait_until(lambda: Resume() in engine.told)
        other.order(1, extend={"seconds": 0.5})  # said again, to be sure
        other.order(2, say={"prompt": "a blue star spins", "seconds": 7.5})
        other.rest(receives=True)
    assert sorted(other.answers) == [2]
    frames = np.concatenate([talk.frames, other.frames])
    assert np.array_equal(frames, known(("7.5s", "a blue star spins"), frames=133))


def test_what_was_not_received_is_sent_again(served, known):
    with served() as (channel, _):
        talk = begin(channel, frames=29, keep_s=60, media=2)
        talk.order(1, pause={})
        while 1 not in talk.answers:
            talk.next()
        talk.call.cancel()
        talk.last = 0
        other = Talk(channel, go_on(talk))
        accepted = other.next().accepted
        assert (accepted.commands, accepted.paused) == (1, True)
        other.order(2, resume={})
        other.rest(receives=True)
    assert sorted(other.answers) == [1, 2]
    assert np.array_equal(other.frames, known(frames=29))


def test_the_end_waits_for_a_client_whose_line_broke(served):
    with served() as (channel, _):
        talk = begin(channel, frames=29, keep_s=60)
        while len(talk.frames) < 29:
            talk.next()
        talk.call.cancel()
        other = Talk(channel, go_on(talk))
        other.last = talk.last
        other.rest(receives=True)
        assert other.done.summary.frames == 29
        assert status_of(Talk(channel, go_on(talk)).call)[:2] == ("NOT_FOUND", "unknown_session")


def test_a_session_ends_when_nobody_takes_it_up_in_time(served):
    with served() as (channel, engine):
        talk = begin(channel, keep_s=1)
        talk.call.cancel()
        wait_until(lambda: not engine.running)
        assert status_of(Talk(channel, go_on(talk)).call)[:2] == ("NOT_FOUND", "unknown_session")


@pytest.mark.parametrize("way", ["cancelled", "left", "deadline"])
def test_a_session_ends_with_its_client(served, way):
    with served() as (channel, engine):
        if way == "deadline":
            talk = Talk(channel, start_of(frames=253, keep_s=60), timeout=1.0)
            talk.next()
            assert status_of(talk.call)[0] == "DEADLINE_EXCEEDED"
        else:
            talk = begin(channel, frames=253, keep_s=60 if way == "left" else 0)
            talk.say(leave={}) if way == "left" else talk.call.cancel()
        wait_until(lambda: not engine.running)


def test_another_call_takes_a_session_over(served, known):
    """The server may not know yet that the first line is dead."""
    with served() as (channel, _):
        talk = begin(channel, frames=61, keep_s=60)
        other = Talk(channel, go_on(talk))
        other.last = talk.last
        other.next()
        assert status_of(talk.call)[:2] == ("ABORTED", "fenced")
        other.rest(receives=True)
    assert np.array_equal(np.concatenate([talk.frames, other.frames]), known(frames=61))


def test_sessions_of_others_are_unknown(served):
    guard = Guard(callers=Callers({ANN: "ann", BOB: "bob"}))
    ann, bob = ({"metadata": (("authorization", f"Bearer {token}"),)} for token in (ANN, BOB))
    with served(guard=guard) as (channel, _):
        talk = Talk(channel, start_of(frames=253, keep_s=60), **ann)
        talk.session = talk.next().accepted.session_id
        talk.order(1, fork={})
        while 1 not in talk.answers:
            talk.next()
        for session in (talk.session, talk.answers[1].fork, "", "x" * 100_000):
            first = Request(go_on={"session_id": session})
            assert status_of(Talk(channel, first, **bob).call)[:2] == ("NOT_FOUND", "unknown_session")
        assert status_of(Talk(channel, Request(go_on={"session_id": talk.session})).call)[0] == "UNAUTHENTICATED"
        assert status_of(Talk(channel, go_on(talk, tenant="ann"), **bob).call)[0] == "INVALID_ARGUMENT"
        other = Talk(channel, Request(go_on={"session_id": talk.answers[1].fork}), **ann)
        for call in (other, talk):
            call.next()
            call.say(leave={})


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (Request(command={"number": 1, "pause": {}}), ("INVALID_ARGUMENT", "invalid_input", False)),
        (Request(), ("INVALID_ARGUMENT", "invalid_input", False)),
        (None, ("INVALID_ARGUMENT", "invalid_input", False)),
        (start_of(""), ("INVALID_ARGUMENT", "invalid_prompt", False)),
        (start_of(frames=18), ("INVALID_ARGUMENT", "invalid_size", False)),
        (start_of(media=7), ("INVALID_ARGUMENT", "invalid_input", False)),
        (start_of(keep_s=301), ("INVALID_ARGUMENT", "invalid_input", False)),
        (start_of(pace_fps=-2), ("INVALID_ARGUMENT", "invalid_input", False)),
        (start_of(options={"quality": 3}), ("UNIMPLEMENTED", "unsupported", False)),
        (start_of(options={"tenant": "a/b"}), ("INVALID_ARGUMENT", "invalid_input", False)),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_call_that_begins_wrongly_is_answered_precisely(served, first, told):
    with served() as (channel, _):
        assert status_of(Talk(channel, first).call) == told


def test_bytes_that_are_no_message(served):
    path = "/reelray.v1.Videos/Converse"
    with served() as (channel, _):
        for before in ([], [start_of(frames=29).SerializeToString()]):
            call = channel.stream_stream(path)(iter([*before, b"\xff\xff\xff"]))
            assert status_of(call) == ("INVALID_ARGUMENT", "invalid_input", False)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"command": {"number": 2, "pause": {}}}, "INVALID_ARGUMENT"),
        ({"command": {"pause": {}}}, "INVALID_ARGUMENT"),
        ({"received": 10**9}, "INVALID_ARGUMENT"),
        ({"go_on": {"session_id": "x"}}, "INVALID_ARGUMENT"),
        ({}, "UNIMPLEMENTED"),
    ],
    ids=str,
)
def test_what_cannot_be_said_ends_the_call(served, said, told):
    with served() as (channel, _):
        talk = begin(channel)
        talk.say(**said)
        assert status_of(talk.call)[0] == told


def test_more_commands_than_answers_were_received_end_the_call(served):
    with served(open_commands=5) as (channel, _):
        talk = begin(channel, keep_s=1)
        for number in range(1, 8):
            talk.order(number, pause={})
        assert status_of(talk.call) == ("RESOURCE_EXHAUSTED", "out_of_resources", True)


def test_who_receives_nothing_holds_the_engine_back(served):
    window = 8 * FRAME_BYTES
    with served(window_bytes=window) as (channel, _):
        talk = begin(channel, frames=253, keep_s=60)
        talk.order(1, pause={})
        while 1 not in talk.answers:
            talk.next()
        assert len(talk.media) < window + 8 * FRAME_BYTES
        talk.order(2, say={"prompt": "a blue star spins"})
        while 2 not in talk.answers:
            talk.next()
        assert talk.answers[2].frame < 16 + 5 + 32 + 8 * 4  # of the window, and what the engine makes ahead
        talk.say(leave={})


def test_who_only_holds_room_is_sent_away(served):
    with served(idle_s=0.3) as (channel, _):
        talk = begin(channel, keep_s=60)
        talk.order(1, pause={})
        assert status_of(talk.call)[:2] == ("CANCELLED", "cancelled")
        assert status_of(Talk(channel, go_on(talk)).call)[0] == "NOT_FOUND"


def test_who_says_nothing_at_first_is_sent_away(served):
    with served(first_s=0.2) as (channel, _):
        assert status_of(Talk(channel, SILENCE).call)[:2] == ("CANCELLED", "cancelled")


def test_a_server_has_room_for_so_many_sessions(served):
    with served(most=4, most_of_tenant=2) as (channel, _):
        ann = {"options": {"tenant": "ann"}}
        talks = [begin(channel, frames=253, **ann)]
        talks[0].order(1, fork={})
        talks[0].order(2, fork={})
        while 2 not in talks[0].answers:
            talks[0].next()
        assert not talks[0].answers[1].HasField("refusal")
        assert talks[0].answers[2].refusal.reason == "out_of_resources"
        assert talks[0].answers[2].refusal.retry_after_ms > 0
        assert status_of(Talk(channel, start_of(**ann)).call) == ("RESOURCE_EXHAUSTED", "out_of_resources", True)
        talks += [begin(channel, frames=253, options={"tenant": name}) for name in ("bob", "eve")]
        assert status_of(Talk(channel, start_of()).call) == ("RESOURCE_EXHAUSTED", "out_of_resources", True)
        fork = Talk(channel, Request(go_on={"session_id": talks[0].answers[1].fork, "tenant": "ann"}))
        fork.next()
        for talk in (*talks, fork):
            talk.call.cancel()


def test_a_server_that_ends_says_so_to_those_who_talk(tiny):
    """Those who come to their end by then have it; nobody waits for a session without a client."""
    entry, engine = tiny
    ended, whole = [], []
    with serve(engine, entries=[entry], grace_s=3, together=8) as address:
        channel = grpc.insecure_channel(address)
        talk, parked = begin(channel, frames=253), begin(channel, frames=253, keep_s=60)
        parked.call.cancel()
        talk.order(1, pause={})
        while 1 not in talk.answers:
            talk.next()
        other = begin(channel, frames=29)
        threads = [
            threading.Thread(target=lambda: ended.append(status_of(talk.call))),
            threading.Thread(target=lambda: whole.append(len(other.rest().frames))),
        ]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(10)
    assert (ended, whole) == ([("UNAVAILABLE", "engine_lost", True)], [29])
    channel.close()
    wait_until(lambda: not engine._leader._clients.streams)


STREAM = replace(
    RECIPE, chunking=Chunking(latent_frames=2), memory=MemoryRule(local=4, sink=1), guidance=RECIPE.guidance
)


def test_a_lost_engine_is_told_with_a_hint_and_opened_again():
    engine = FakeEngine(error=EngineError("rank 1 was lost"), fail_at_frame=8, lost=True)
    with serve(engine, entries=[fake_entry(recipe=STREAM)]) as address, connect(address) as channel:
        start = start_of(frames=17)
        start.start.video.ClearField("size")
        talk = Talk(channel, start)
        talk.until("media")
        assert status_of(talk.call) == ("UNAVAILABLE", "engine_lost", True)
        wait_until(lambda: engine.closed)


def test_a_client_that_leaves_stops_an_engine_that_knows_no_orders():
    engine = FakeEngine(frame_delay_s=0.05)
    with serve(engine, entries=[fake_entry(recipe=STREAM)]) as address, connect(address) as channel:
        start = start_of(frames=401)
        start.start.video.ClearField("size")
        talk = Talk(channel, start)
        talk.until("media")
        talk.call.cancel()
        wait_until(lambda: engine.cancelled == 1)


def test_models_of_whole_clips_are_refused():
    with serve(FakeEngine()) as address, connect(address) as channel:
        assert status_of(Talk(channel, start_of()).call) == ("UNIMPLEMENTED", "unsupported", False)


def test_prompts_of_a_session_fit_into_a_message():
    changes = tuple(PromptChange(latent_frame=n, prompt="x" * 7900) for n in range(1, 125))
    request = make_request("a", changes=changes)
    check_prompts(request, "x" * 7900)
    with pytest.raises(InputError, match="at most 1000000 bytes of prompts; these 127 have more"):
        check_prompts(request, "x" * 30_000)
