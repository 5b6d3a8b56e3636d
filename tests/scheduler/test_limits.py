import pytest

from reelray.scheduler.limits import EngineLimits


def test_large_pictures_decode_in_shorter_pieces():
    limits = EngineLimits(decode_latent_frames=4, decode_pixels=8 * 64 * 64)
    assert limits.piece_latent_frames(width=64, height=64, temporal_stride=4) == 2
    assert limits.piece_latent_frames(width=16, height=16, temporal_stride=4) == 4
    assert limits.piece_latent_frames(width=640, height=640, temporal_stride=4) == 1


def test_a_bound_below_one_is_refused():
    with pytest.raises(ValueError, match="frame_credit is 0"):
        EngineLimits(frame_credit=0)
