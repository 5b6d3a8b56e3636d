"""Deadlines of videos that are waited for, and of renders, as Python says them."""

import asyncio
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

import reelray
from reelray.proto.chunking import Chunking
from reelray.proto.errors import DeadlineError, InputError
from reelray.proto.memory_rule import MemoryRule
from tests.support.fake_engine import RECIPE, FakeEngine, fake_entry
from tests.support.gateway import serve

STREAM = replace(RECIPE, chunking=Chunking(latent_frames=2), memory=MemoryRule(local=4, sink=1))
LATE = "the deadline cannot be kept; it would be done in about"


def now():
    return datetime.now().astimezone()


@contextmanager
def connected(engine):
    with serve(engine) as address, reelray.Client(address) as client:
        yield client


def in_an_hour():
    return now() + timedelta(hours=1)


@pytest.mark.parametrize(
    "said", [in_an_hour, lambda: in_an_hour().isoformat(), lambda: "2100-01-01"], ids=["time", "text", "day"]
)
def test_a_video_is_made_by_then(said):
    due = said()
    with connected(FakeEngine()) as client:
        assert client.render("a disc", frames=5, deadline=due).frames.shape[0] == 5
        assert len(list(client.render_stream("a disc", frames=5, deadline=due))) == 5


def test_what_cannot_be_is_refused_at_once_and_nothing_is_made():
    engine, late = FakeEngine(), now() - timedelta(seconds=5)
    with connected(engine) as client:
        for ask in (client.render, client.render_stream):
            with pytest.raises(DeadlineError, match=LATE) as raised:
                ask("a disc", deadline=late)
            assert datetime.fromisoformat(raised.value.ids["predicted_finish"]) > late
    assert engine.requests == []


def test_a_session_begins_by_then_or_not_at_all():
    engine = FakeEngine()
    with serve(engine, entries=[fake_entry(recipe=STREAM)]) as address, reelray.Client(address) as client:
        with pytest.raises(DeadlineError), client.converse("a disc", deadline=now() - timedelta(seconds=5)) as session:
            next(session)
        assert engine.requests == []
        with client.converse("a disc", frames=9, deadline=now() + timedelta(hours=1)) as session:
            assert sum(len(frames) for frames in session) == 9


def test_asyncio_says_the_same():
    async def case(address):
        async with reelray.AsyncClient(address) as client:
            late = now() - timedelta(seconds=5)
            with pytest.raises(DeadlineError, match=LATE):
                await client.render("a disc", deadline=late)
            with pytest.raises(DeadlineError):
                await anext(client.render_stream("a disc", deadline=late))
            return await client.render("a disc", frames=5, deadline="2100-01-01")

    with serve(FakeEngine()) as address:
        assert len(asyncio.run(case(address)).frames) == 5


def test_a_render_says_it_as_the_command_does(shelf):
    due = (now() + timedelta(hours=1)).replace(second=0, microsecond=0)
    with serve(FakeEngine(), shelf=shelf) as address, reelray.Client(address) as client:
        render = client.submit("a disc", deadline=due.strftime("%Y-%m-%dT%H:%M"))
        assert client.get(render.id).deadline == due


@pytest.mark.parametrize("wrong", ["soon", "25:00", "", 12, datetime])
def test_what_is_no_time_is_refused_here(wrong):
    with connected(FakeEngine()) as client:
        for ask in (client.render, client.submit):
            with pytest.raises(InputError, match=r"deadline is .*write a time such as"):
                ask("a disc", deadline=wrong)
