"""Whatever is wrong with a render in the store, the others are made."""

import asyncio

import pytest

from reelray.cluster.coordinator import render_line
from reelray.cluster.coordinator.render_line import RenderLine
from reelray.cluster.renders.spec import queue_of
from reelray.cluster.store.job import NewJob
from reelray.cluster.store.names import JobRef
from reelray.proto.request import RequestId
from tests.support.coordinating import FakeHouse, KnownCosts, a_coordinator, offer


@pytest.fixture
def two_renders(shelf):
    """One that nobody can read, and one of a wish that this build does not know."""
    with shelf.opened() as hands:
        names = []
        for number in range(2):
            new = NewJob(tenant="t", spec={"number": number}, queue=queue_of("fake"))
            names.append(RequestId(str(hands.do(hands.store.jobs.submit(new)).ref)))
        connection = hands.store.connection
        bad = connection.key("job", *names[0].split(":"))
        assert hands.do(connection.command("EXISTS", bad))
        hands.do(connection.command("HSET", bad, "priority", "none"))
        assert JobRef.parse(names[0].encode()).tenant == "t"
        yield hands, names


def test_a_render_that_cannot_be_read_keeps_no_other_from_being_made(two_renders):
    hands, (_, good) = two_renders
    coordinator, _ = a_coordinator()
    house = FakeHouse("h", coordinator, offer("h/fake", model="fake"))
    hands.do(RenderLine(hands.store, KnownCosts()).look(coordinator))
    assert list(house.begun) == [good]


def test_a_look_that_fails_is_not_the_last_one(two_renders, monkeypatch):
    monkeypatch.setattr(render_line, "PAUSE_S", 0.01)
    monkeypatch.setattr(render_line, "LOOK_S", 0.01)
    hands, _ = two_renders
    line, looks = RenderLine(hands.store, KnownCosts()), []

    async def look(_coordinator):
        looks.append(len(looks))
        raise KeyError("unexpected")

    monkeypatch.setattr(line, "look", look)

    async def case():
        running = asyncio.create_task(line.run(a_coordinator()[0]))
        async with asyncio.timeout(20):
            while len(looks) < 3:  # noqa: ASYNC110  nothing tells
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    hands.do(case())
