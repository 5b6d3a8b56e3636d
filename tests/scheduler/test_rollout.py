"""What one request may do next."""

import pytest

from reelray.proto.memory_rule import MemoryRule
from reelray.scheduler.limits import EngineLimits
from reelray.scheduler.rollout import Phase, Rollout
from tests.support.core_trace import FACTS
from tests.support.requests import make_recipe, make_request


def make_stream(**limits):
    """Chunks of two latent frames and two steps; each is remembered by a clean pass."""
    recipe = make_recipe(steps=2, chunk=2, guidance=1.0, memory=MemoryRule(local=4))
    rollout = Rollout(make_request(latent_frames=6, recipe=recipe), FACTS, EngineLimits(**limits))
    rollout.phase = Phase.RUNNING
    return rollout


def move(rollout, count):
    for _ in range(count):
        rollout.window_moved()


def test_a_clean_pass_waits_for_frames_that_may_leave():
    rollout = make_stream()
    move(rollout, 2)
    assert rollout.next_window().is_clean_pass
    assert rollout.next_decode() is not None
    assert rollout.next_window_after_frames() is None
    rollout.piece_decoded()
    assert rollout.next_window_after_frames() == rollout.next_window()


def test_a_clean_pass_does_not_wait_for_a_client():
    """The second chunk is clean and its client has no room: memory goes on meanwhile."""
    rollout = make_stream(frame_credit=5)
    move(rollout, 2)
    rollout.piece_decoded()
    move(rollout, 3)
    assert rollout.next_window().is_clean_pass
    assert rollout.next_decode() is None
    assert rollout.next_window_after_frames() == rollout.next_window()
    rollout.acknowledge(5)
    assert rollout.next_window_after_frames() is None


@pytest.mark.parametrize("done", [0, 1, 3, 4])
def test_a_denoise_step_waits_for_no_frames(done):
    rollout = make_stream()
    move(rollout, done)
    assert (rollout.next_decode() is not None) is (done > 1)
    window = rollout.next_window()
    assert not window.is_clean_pass
    assert rollout.next_window_after_frames() == window
