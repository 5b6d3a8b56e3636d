"""Steps that are reported while the device works on them: on a device that is told by the test how far it is."""

from dataclasses import replace

import pytest
import torch

from reelray.proto.events import Stage
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine import rank as rank_module
from reelray.workers.engine import steps_ahead
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.steps_ahead import StepsAhead
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.models.upload import upload
from tests.support.latent_pictures import LatentPictures
from tests.support.live_cases import live_request


class Device:
    """Each mark is a second of its work later than the one before, times `pace`; it works when it is waited for."""

    def __init__(self, pace=0.01):
        self.pace, self.marks, self.done = pace, 0, 0

    def mark(self):
        self.marks += 1
        return FakeMark(self, self.marks)


class FakeMark:
    def __init__(self, device, number):
        self.device, self.number = device, number

    def wait(self):
        self.device.done = max(self.device.done, self.number)

    def seconds_to(self, later):
        assert later.number <= self.device.done, "the device has not come there"
        return self.device.pace * (later.number - self.number)


@pytest.fixture
def device(monkeypatch):
    device = Device()
    monkeypatch.setattr(steps_ahead, "AHEAD_S", 10.0)  # a busy host may be slow
    monkeypatch.setattr(rank_module, "synchronize", lambda _: device.mark().wait())
    return device


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return LatentPictures(open_checkpoint(tiny_t2v, device="cpu"))


def play(model, request, ahead):
    """All plans of a request, with their reports."""
    core, rank = EngineCore(EngineLimits()), Rank(model, ahead=ahead)
    core.submit(request, model.facts)
    steps = []
    while (plan := core.next_step(0.0)) is not None:
        report = rank.execute(plan)
        core.report(report)
        steps.append((plan, report))
        for frames in report.frames:
            core.acknowledge(frames.request_id, frames.count)
    return steps


def denoise_costs(report):
    return [cost for cost in report.costs if cost.stage is Stage.DENOISE]


def four_steps(**changes):
    request = live_request("keep", **changes)
    schedule = replace(request.recipe.schedule, timesteps=(1000.0, 800.0, 600.0, 400.0))
    return replace(request, recipe=replace(request.recipe, schedule=schedule))


def test_a_step_amid_a_chunk_is_reported_before_the_device_is_done_and_costs_what_it_took(model, device):
    steps = play(model, four_steps(), StepsAhead(device.mark))
    windows = [(plan.windows[0], denoise_costs(report)) for plan, report in steps if plan.windows]
    second = [(window, costs) for window, costs in windows if window.chunk == 1 and not window.is_clean_pass]
    assert [len(costs) for _, costs in second] == [0, 1, 1, 2]  # each waits for the one before it
    costs = [cost for _, found in second for cost in found]
    assert [cost.seconds for cost in costs] == pytest.approx([device.pace] * 3 + [2 * device.pace])
    assert all(cost.forwards == 1 for cost in costs)


def test_every_step_is_told_once_and_frames_are_the_same(model, device):
    request = four_steps()
    open_steps, closed = play(model, request, StepsAhead(device.mark)), play(model, request, StepsAhead(None))
    assert sum(plan.ahead for plan, _ in open_steps) > 0
    for told in (open_steps, closed):
        windows = [w for plan, _ in told for w in plan.windows if not w.is_clean_pass]
        assert sum(len(denoise_costs(report)) for _, report in told) == len(windows)
    frames = [[f.data for _, report in told for f in report.frames] for told in (open_steps, closed)]
    assert frames[0] == frames[1]


def test_long_steps_are_waited_for(model, device, monkeypatch):
    monkeypatch.setattr(steps_ahead, "AHEAD_S", 0.0)
    steps = play(model, four_steps(), StepsAhead(device.mark))
    told = [denoise_costs(report) for plan, report in steps if plan.windows and not plan.windows[0].is_clean_pass]
    assert [len(costs) for costs in told] == [1] * len(told)


def test_a_device_that_does_everything_at_once_leaves_nothing_open(model):
    steps = play(model, four_steps(), None)
    assert all(len(denoise_costs(report)) == 1 for plan, report in steps if plan.ahead)
    assert any(plan.ahead for plan, _ in steps)


@pytest.mark.gpu
def test_an_upload_is_there_before_what_follows():
    place = torch.device("cuda")
    for number in range(50):
        torch.empty(1 << 24, device=place).normal_()
        assert upload(torch.full((1 << 16,), float(number)), place).sum().item() == number * 2**16
