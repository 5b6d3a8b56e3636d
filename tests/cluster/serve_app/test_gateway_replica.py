"""A gateway looks after engines that do not answer, before a caller finds out."""

import asyncio
import threading
from dataclasses import replace

import pytest
import ray

from reelray.cluster.gateway.served_models import ServedModel
from reelray.cluster.serve_app import gateway_replica
from tests.support.fake_engine import DESCRIPTION, FakeEngine, fake_entry


class Door:
    """Answers as it is told."""

    def __init__(self, answer, move=None):
        self.answer, self.moves, self.moved = answer, move, 0

    async def greet(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is None:
            await asyncio.sleep(60)
        return self.answer

    def move(self):
        self.moved += 1
        if isinstance(self.moves, Exception):
            raise self.moves
        return self.moves


class WatchedModel(ServedModel):
    def __init__(self):
        super().__init__(fake_entry(), FakeEngine)
        self.looked = threading.Event()

    def look_after(self):
        self.looked.set()


@pytest.mark.parametrize(
    "answer", [ray.exceptions.RayActorError(), ray.exceptions.ActorUnavailableError("x", None), None]
)
def test_who_does_not_answer_is_looked_after(answer, monkeypatch):
    monkeypatch.setattr(gateway_replica, "ANSWER_S", 0.05)
    model = WatchedModel()
    asyncio.run(gateway_replica.greet(Door(answer), model))
    assert model.looked.wait(10)


def test_who_answers_is_left_alone():
    model = WatchedModel()
    door = Door(answer=True)
    asyncio.run(gateway_replica.greet(door, model))
    assert not model.looked.is_set()
    assert door.moved == 0


@pytest.mark.parametrize("replacement", [replace(DESCRIPTION, digest="new"), TimeoutError(), RuntimeError("none")])
def test_who_is_about_to_go_is_left_for_a_replacement_if_there_is_one(replacement):
    model, door = WatchedModel(), Door(answer=False, move=replacement)
    asyncio.run(gateway_replica.greet(door, model))
    assert door.moved == 1
    assert not model.looked.is_set()
    assert model.description.digest == getattr(replacement, "digest", DESCRIPTION.digest)
