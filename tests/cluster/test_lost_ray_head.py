"""A process of Ray's head node is killed: calls end at once, nothing is left, and another engine can be opened."""

import psutil
import pytest

from reelray.cluster.embedded_engine import EmbeddedEngine
from reelray.cluster.ray_head import head_is_lost, head_processes
from reelray.proto.errors import EngineError
from reelray.proto.events import Frames, Progress, Stage
from reelray.proto.session import Stop
from tests.support.commands import is_there
from tests.support.fake_model import FakeModel
from tests.support.plain_loop import render_plainly
from tests.support.requests import make_recipe, make_request
from tests.support.waiting import wait_until

# These have a title where their variables were.
TITLED = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


def slow_model():
    return FakeModel(step_s=0.01)


def lose(engine, victim):
    """Kill a process of the head node while a request runs, see how that ends, and leave the engine."""
    family = psutil.Process().children(recursive=True)
    assert sum(process.name().startswith((*TITLED, "ray::EngineActor")) for process in family) == 3
    stream = engine.render(make_request("a", recipe=make_recipe(steps=1_000_000)))
    assert next(event for event in stream if isinstance(event, Progress) and event.stage is Stage.DENOISE)
    assert not head_is_lost()
    head_processes()[victim].kill()
    with pytest.raises(EngineError, match=r"head node ended|ended unexpectedly") as raised:
        list(stream)
    assert raised.value.retryable
    with pytest.raises(EngineError):
        engine.tell("a", Stop())
    engine.close()
    wait_until(lambda: not any(map(is_there, family)), within_s=5)  # an actor would stay for longer of its own accord
    assert not head_is_lost()


def test_an_engine_ends_with_its_head_node_and_another_takes_its_place():
    lose(EmbeddedEngine(slow_model), 0)  # the control store
    request = make_request("b", recipe=make_recipe(steps=3), negative_prompt="dull")
    engine = EmbeddedEngine(slow_model)
    video = b"".join(event.data for event in engine.render(request) if isinstance(event, Frames))
    assert video == render_plainly(FakeModel(), request)
    lose(engine, 1)  # the raylet
