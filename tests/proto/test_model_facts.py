"""Sizes that a model can place, and those it cannot."""

import pytest

from reelray.proto.errors import SizeError
from tests.support.requests import make_facts


def test_the_longest_clip_and_the_largest_picture_fit() -> None:
    facts = make_facts(positions=6)
    assert facts.latent_frames(21) == 6
    assert facts.latent_size(width=96, height=96) == (12, 12)


def test_beyond_the_last_position_is_refused() -> None:
    # On a GPU a position beyond the table would kill the whole process.
    facts = make_facts(positions=6)
    with pytest.raises(SizeError, match="25 frames are too many for this model; it makes at most 21"):
        facts.latent_frames(25)
    with pytest.raises(SizeError, match="width 112 is too large for this model; it makes at most 96"):
        facts.latent_size(width=112, height=96)
    with pytest.raises(SizeError, match="height 112 is too large"):
        facts.latent_size(width=96, height=112)
