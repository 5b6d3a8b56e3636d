"""What an engine's replica says of itself; the rest is tested on a real Ray."""

import asyncio

import pytest

from reelray.cluster.serve_app import engine_replica
from reelray.cluster.serve_app.arguments import ModelArguments
from reelray.cluster.serve_app.engine_replica import EngineReplica
from reelray.proto.errors import EngineError
from tests.support.fake_engine import FakeEngine, fake_entry


class Replica(EngineReplica):
    """Serve awaits `__del__`; Python only calls it."""

    def __del__(self):
        pass


def test_an_engine_whose_actor_lives_and_whose_leader_is_lost_is_not_well(monkeypatch):
    engine = FakeEngine(lost=True)
    monkeypatch.setattr(engine_replica, "get_current_placement_group", lambda: None)
    monkeypatch.setattr(engine_replica, "open_engine", lambda _model, _group: (fake_entry(), engine))

    async def ask(question):
        replica = Replica.__new__(Replica)
        await replica.__init__(ModelArguments(model="fake"), 1.0)
        await getattr(replica, question)()

    for question in ("check_health", "card"):
        with pytest.raises(EngineError, match="the engine of model 'fake' was lost"):
            asyncio.run(ask(question))
