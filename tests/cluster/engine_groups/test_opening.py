"""Engines are opened as they were planned, and have made a tiny video before anybody else gets one."""

import threading
from contextlib import ExitStack
from dataclasses import replace

import pytest

from reelray.cluster.checkpoint_loader import describe_model
from reelray.cluster.engine_groups.opening import open_groups, place_default, plan_groups, shares_ray
from reelray.cluster.engine_groups.options import GroupOptions
from reelray.cluster.engine_groups.warm_up import tiny_job
from reelray.cluster.model_catalog import PACKAGED
from reelray.cluster.render_plan import Place
from reelray.cluster.settings import Settings
from reelray.proto.errors import EngineError, InputError
from tests.support.fake_engine import DESCRIPTION, FakeEngine, fake_services, write_models
from tests.support.requests import make_request
from tests.support.waiting import wait_until

LOCAL = Place(engine="local", device="cpu")


@pytest.fixture
def made():
    return []


@pytest.fixture
def services(tmp_path, made):
    def open_engine(*_place):
        made.append(FakeEngine())
        return made[-1]

    fake = fake_services(FakeEngine(), write_models(tmp_path / "models", "fake", "other"))
    return replace(fake, open_engine=open_engine)


def groups(**options):
    return [GroupOptions(model="fake", place=LOCAL, **options)]


def test_each_engine_has_made_a_tiny_video_when_it_is_there(services, made):
    with ExitStack() as opened:
        (model,) = open_groups(plan_groups(groups(count=3), services), services, lambda _line: None, opened)
        assert [len(engine.requests) for engine in made] == [1, 1, 1]
        request = made[0].requests[0]
        assert (request.frames, request.width, request.height, request.recipe.schedule.steps) == (5, 64, 64, 1)
        assert model.is_ready
        for name in "abc":
            list(model.engine.render(make_request(name)))
        assert [len(engine.requests) for engine in made] == [2, 2, 2]
    assert [engine.closed for engine in made] == [1, 1, 1]


def test_an_engine_that_does_not_work_is_not_served(services):
    broken = FakeEngine(error=EngineError("no kernels"))
    services = replace(services, open_engine=lambda *_place: broken)
    with ExitStack() as opened, pytest.raises(EngineError, match="no kernels"):
        open_groups(plan_groups(groups(), services), services, lambda _line: None, opened)
    assert broken.closed == 1


def test_on_demand_it_was_tried_once_and_is_not_there(services, made):
    with ExitStack() as opened:
        (model,) = open_groups(plan_groups(groups(preload=False), services), services, lambda _line: None, opened)
        assert [(len(engine.requests), engine.closed) for engine in made] == [(1, 1)]
        assert model.is_ready
        list(model.engine.render(make_request("a")))
        assert len(made) == 2
    assert made[1].closed == 1


def test_what_is_known_from_before_is_not_waited_for(services, made):
    allowed, before = threading.Event(), replace(DESCRIPTION, digest="of before")

    def open_engine(*_place):
        assert allowed.wait(20)
        made.append(FakeEngine())
        return made[-1]

    services = replace(services, open_engine=open_engine)
    with ExitStack() as opened:
        planned = plan_groups(groups(), services)
        (model,) = open_groups(planned, services, lambda _line: None, opened, {"fake": before})
        assert (model.is_ready, model.description) == (False, before)
        with pytest.raises(EngineError) as raised:
            _ = model.engine
        assert raised.value.retryable
        allowed.set()
        wait_until(lambda: model.is_ready)
        assert (model.description, len(made[0].requests)) == (DESCRIPTION, 1)
    assert made[0].closed == 1


def test_who_shares_a_ray(services):
    ray = Place(engine="ray", device="cpu")
    several = [("fake", ray, 1, True), ("other", ray, 1, True)]
    cases = [(several[:1], False), (several, True), ([("fake", ray, 2, True)], True), ([("fake", ray, 1, False)], True)]
    for wanted, shared in (*cases, ([("fake", LOCAL, 2, False)], False)):
        options = [GroupOptions(model=m, place=p, count=c, preload=preload) for m, p, c, preload in wanted]
        assert shares_ray(plan_groups(options, services)) == shared


def test_a_model_is_served_once(services):
    with pytest.raises(InputError, match="'fake' was named twice"):
        plan_groups(groups() * 2, services)


def test_a_tiny_job_is_small_for_real_models(tiny_t2v, tiny_i2v, tiny_stream):
    for path, small in [(PACKAGED / "sprites", True), (PACKAGED / "sprites-causal", True), (tiny_t2v, True),
                        (tiny_stream, True), (tiny_i2v, False)]:  # fmt: skip
        entry = describe_model(path)
        default, _ = place_default(entry, Settings(), LOCAL)
        job = tiny_job(entry, default)
        assert (job.request.frames <= 13 and job.request.width == job.request.height == 64) == small or job == default
