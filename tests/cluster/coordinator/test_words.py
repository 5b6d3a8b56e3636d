"""What houses and coordinators say survives the wire, and nothing else is understood."""

import json
from dataclasses import replace

import pytest

from reelray.cluster.coordinator import messages
from reelray.cluster.coordinator.keeper import listen_address
from reelray.cluster.coordinator.refusals import refusal
from reelray.cluster.coordinator.words import DECISIONS, REPORTS, pack_report, pack_word, read_report, read_word
from reelray.cluster.store.connection import StoreAddress
from reelray.proto.errors import DeadlineError, EngineError, InputError, QuotaError, ResourceError
from reelray.proto.request import RequestId
from reelray.scheduler.fleet.decision import Reason
from reelray.scheduler.fleet.ticket import EngineId
from tests.support.coordinating import offer, wish

NAME, ENGINE = RequestId("film:1"), EngineId("h/m")
BEGIN = messages.Begin(request_id=NAME, engine_id=ENGINE, gpus=2, run=1 << 40, work_s=2.5, left=0.5, render=wish(NAME))
RUN = messages.Run(wish=wish("a"), engine_id=ENGINE, gpus=1, run=3, left=0.25, is_render=False)
SAID = (
    messages.Joined(house="h", engines=(offer("h/m", ranks=4),), runs=(RUN,), waiting=(wish("b", within_s=3.5),)),
    messages.EngineCame(offer=offer("h/m", pace=2.0)),
    messages.EngineWent(engine_id=ENGINE),
    messages.Asked(wish=replace(wish("c"), clip=None)),
    messages.Inquired(wish=wish("d", within_s=9.5, render=True)),
    messages.Ended(request_id=NAME, run=2, pace=None),
    messages.MadeRoom(request_id=NAME, run=2, left=0.125),
    messages.Left(request_id=NAME),
    messages.Moved(request_id=NAME, run=2, remaining_s=7.5),
    messages.LookedFor(),
    messages.HowStands(request_id=NAME),
)
DECIDED = (
    messages.Waits(request_id=NAME, position=3, start_s=None),
    BEGIN,
    replace(BEGIN, render=None),
    messages.MakeRoom(request_id=NAME, run=2),
    messages.Turned(request_id=NAME, reason=Reason.DEADLINE, finish_s=3.0, retry_after_s=None),
    messages.Load(model="m", queue_s=None, busy=0.5, waiting=3, gpus=8),
)


def test_everything_that_can_be_said_arrives():
    assert {type(one) for one in SAID} == set(REPORTS)
    assert {type(one) for one in DECIDED} == set(DECISIONS)
    for report in SAID:
        assert read_report(pack_report(report)) == report
    for decision in DECIDED:
        word = messages.Word(fence=7, decision=decision)
        assert read_word(pack_word(word)) == word


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[]", b'["Nothing", {}]', b'["Left", {}]', b'["Left", {"request_id": 3}]', b'["Left"]', b"7"],
)
def test_anything_else_ends_the_line(data):
    with pytest.raises(InputError):
        read_report(data)
    with pytest.raises(InputError):
        read_word(json.dumps([7, *json.loads(data)]).encode() if data.startswith(b'["') else data)


def test_it_listens_where_the_store_is(tmp_path):
    socket = f"unix:{tmp_path / 'coordinator.sock'}"
    for url in ("unix:///run/store.sock", "redis://localhost:6379/0", "redis://127.0.0.1:6379/0"):
        assert listen_address(StoreAddress(url=url), tmp_path) == socket
    # Another address, which is reached from this one without a network.
    assert listen_address(StoreAddress(url="redis://127.0.0.2:6379/0"), tmp_path) == "127.0.0.1:0"


@pytest.mark.parametrize(
    ("reason", "retry_after_s", "within_s", "kind", "retryable"),
    [
        (Reason.DEADLINE, 2.5, 10.0, DeadlineError, True),
        (Reason.DEADLINE, None, 10.0, DeadlineError, False),
        (Reason.DEADLINE, 2.5, None, ResourceError, True),
        (Reason.QUEUE_FULL, 2.5, None, ResourceError, True),
        (Reason.SHARE, 2.5, None, QuotaError, True),
        (Reason.LATE, None, None, ResourceError, True),
        (Reason.NO_ENGINE, None, None, EngineError, True),
        (Reason.TOO_LARGE, None, None, ResourceError, False),
    ],
)
def test_who_gets_no_place_is_told_why_and_when_to_come_back(reason, retry_after_s, within_s, kind, retryable):
    turned = messages.Turned(request_id=NAME, reason=reason, finish_s=40.0, retry_after_s=retry_after_s)
    error = refusal(turned, wish("a", within_s=within_s))
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.ids.get("retry_after_ms") == (None if retry_after_s is None else "2500")
    assert "predicted_finish" in error.ids
    assert "40 s" in error.message or reason not in {Reason.DEADLINE, Reason.QUEUE_FULL}
