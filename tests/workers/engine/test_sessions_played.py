"""Sessions that share forwards while they are paused, forked, sent back, told, put down and lost, beside each alone."""

import pytest

from reelray.workers.models.registry import open_checkpoint
from tests.support.live_cases import run_whole
from tests.support.pages_left import assert_nothing_stays
from tests.support.session_play import FRAME_BYTES, Play

PLAYS = [("recache, last step", 10), ("bank", 14), ("rebuild", 16), ("rollout", 35)]


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


def play(model, rule, seed):
    """One play, with each video held to the one that its session makes alone; returns what was seen."""
    drive, played = (one := Play(model, rule, seed)).drive, one.run()
    failures = {name: error for name, error in drive.failures.items() if "@" not in name}
    assert not failures
    for name in {*drive.finished} - played.cancelled:
        whole = run_whole(model, played.requests[name])
        assert drive.videos[name] == whole[played.begins[name] * FRAME_BYTES :], (rule, seed, name)
    drive.run()
    assert not drive.rank._held
    assert_nothing_stays(drive.rank)
    assert all(room.host.free == room.host.pages for room in drive.rank._rooms._rooms.values())
    return played.seen


def test_whatever_happens_to_sessions_each_is_what_it_is_alone(model):
    seen = set()
    for rule, seed in PLAYS:
        seen |= play(model, rule, seed)
    kinds = {"rest", "fork", "go_back", "say", "snapshot"}
    assert seen >= {"loss", "pause", "resume", "cancel", *(f"shared after {kind}" for kind in kinds)}
