"""The embedded causal checkpoint: longer than a clip, told something new on the way, and judged by the detector."""

import pytest

import reelray
from reelray.quality.sprites.caption import parse_caption
from reelray.quality.sprites.detector import score

BEFORE, AFTER = "a red circle moves left on a blue background", "a white star moves right on a black background"


@pytest.fixture(scope="module")
def video():
    return reelray.render(BEFORE, seconds=8, seed=1, engine="local", at=[("4s", AFTER)])


def test_more_than_one_clip_goes_to_the_causal_checkpoint(video):
    assert video.summary.model == "sprites-causal"
    assert len(video.frames) == 129


@pytest.mark.parametrize(("prompt", "first", "last"), [(BEFORE, 0, 60), (AFTER, 80, 129)])
def test_the_video_shows_what_was_asked_for_last(video, prompt, first, last):
    assert score(video.frames[first:last], parse_caption(prompt)).is_all_right


def test_the_detector_does_not_take_one_for_the_other(video):
    assert not score(video.frames[80:129], parse_caption(BEFORE)).is_all_right
