"""A gateway looks after engines that do not answer, before a caller finds out."""

import asyncio
import threading

import pytest
import ray

from reelray.cluster.gateway.served_models import ServedModel
from reelray.cluster.serve_app import gateway_replica
from tests.support.fake_engine import FakeEngine, fake_entry


class Door:
    """Answers as it is told."""

    def __init__(self, answer):
        self.answer = answer

    async def greet(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        await asyncio.sleep(self.answer)


class WatchedModel(ServedModel):
    def __init__(self):
        super().__init__(fake_entry(), FakeEngine)
        self.looked = threading.Event()

    def look_after(self):
        self.looked.set()


@pytest.mark.parametrize(
    "answer", [ray.exceptions.RayActorError(), ray.exceptions.ActorUnavailableError("x", None), 60]
)
def test_who_does_not_answer_is_looked_after(answer, monkeypatch):
    monkeypatch.setattr(gateway_replica, "ANSWER_S", 0.05)
    model = WatchedModel()
    asyncio.run(gateway_replica.greet(Door(answer), model))
    assert model.looked.wait(10)


def test_who_answers_is_left_alone():
    model = WatchedModel()
    asyncio.run(gateway_replica.greet(Door(0), model))
    assert not model.looked.is_set()
