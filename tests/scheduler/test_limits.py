import pytest

from reelray.scheduler.limits import EngineLimits
from tests.support.requests import make_facts


def test_large_pictures_decode_in_shorter_pieces():
    limits, facts = EngineLimits(decode_latent_frames=4), make_facts(decode_pixels=8 * 64 * 64)
    assert limits.piece_latent_frames(facts, width=64, height=64) == 2
    assert limits.piece_latent_frames(facts, width=16, height=16) == 4
    assert limits.piece_latent_frames(facts, width=640, height=640) == 1


def test_a_bound_below_one_is_refused():
    with pytest.raises(ValueError, match="frame_credit is 0"):
        EngineLimits(frame_credit=0)
