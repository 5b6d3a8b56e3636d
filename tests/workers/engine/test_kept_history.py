"""What a rank and its leader keep of the forwards that made a memory: no more than can be asked for again."""

import pytest
import torch

from reelray.proto.commit_parts import find_history
from reelray.proto.errors import ResourceError
from reelray.scheduler.limits import EngineLimits
from reelray.workers.models.registry import open_checkpoint
from tests.support.live_cases import Drive, begins, live_request, run_whole, said
from tests.support.pages_left import assert_nothing_stays
from tests.workers.engine.test_snapshots import FAITHFUL, put_down, take_up


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


def kept(drive):
    """How many forwards the rank can repeat, and how many were written down."""
    saved = drive.core._rollouts["a"].saved
    return len(drive.rank._held["a"].forwards.history), len(find_history(saved.parts or {}))


@pytest.mark.parametrize(("rule", "most"), [("rebuild", 1), ("rollout", 2)])
def test_what_was_forgotten_before_a_memory_began_anew_is_not_kept(model, rule, most):
    """A rollout of six frames begins with two, remembers one more chunk of two, and the last one is not attended."""
    request = live_request(rule, latent_frames=28)
    drive = Drive(model, EngineLimits(commit_s=1e-4))
    drive.submit(request)
    counts = []
    drive.run(lambda plan: counts.append(kept(drive)) or begins(9)(plan))
    assert max(counts[-12:]) == (most, most)
    for chunk in (10, 11):  # what is written down after the loss fits what was written before it
        drive.lose()
        drive.run(begins(chunk))
    assert kept(drive)[0] <= most
    snapshots = [put_down(drive, kind) for kind in FAITHFUL]
    drive.run()
    assert not drive.failures
    whole = run_whole(model, request)
    assert drive.videos["a"] == whole
    for snapshot in snapshots:
        assert len(find_history(snapshot.parts)) <= most
        assert take_up(model, snapshot) == whole[snapshot.frame * 48 * 32 * 3 :]


def test_a_memory_that_never_begins_anew_can_be_made_again_from_its_beginning(model):
    drive = Drive(model, EngineLimits(commit_s=1e-4))
    drive.submit(live_request("keep", latent_frames=24))
    drive.run(begins(9))
    assert kept(drive) == (9, 9)


@pytest.mark.parametrize("rule", ["recache", "bank"])
@torch.inference_mode()
def test_a_memory_that_cannot_be_made_again_leaves_no_page_and_may_be_asked_for_again(model, monkeypatch, rule):
    """Half of it would be attended as if it were all of it."""
    request = said(live_request(rule, latent_frames=16), (4, "a blue star"))
    drive = Drive(model)
    drive.submit(request)
    drive.run(begins(5))
    held, station = drive.rank._held["a"], drive.rank._station
    held.forwards.take(*held.forwards.give())  # as if another lane had given it
    assert_nothing_stays(drive.rank)
    whole, calls = type(model).denoise, []

    def break_off(*arguments, **more):
        calls.append(1)
        if len(calls) == 3:
            raise ResourceError("there is no room for that forward")
        return whole(*arguments, **more)

    monkeypatch.setattr(type(model), "denoise", break_off)
    with pytest.raises(ResourceError, match="no room for that forward"):
        held.begin_memory(station)
    assert held.forwards.memory is None
    assert_nothing_stays(drive.rank)
    held.begin_memory(station)
    monkeypatch.undo()
    drive.run()
    assert drive.videos["a"] == run_whole(model, request)
    drive.step()
    assert_nothing_stays(drive.rank)
