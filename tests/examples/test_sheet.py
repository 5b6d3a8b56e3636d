import numpy as np
import pytest

from examples.train_sprites.sheet import CAPTION_HEIGHT, GAP, make_sheet


def test_a_sheet_shows_first_to_last_frame_of_every_clip() -> None:
    clip = np.zeros((9, 20, 30, 3), np.uint8)
    clip[:] = np.arange(9, dtype=np.uint8)[:, None, None, None] * 20
    sheet = np.asarray(make_sheet([clip, clip + 5], ["first", "second"], columns=3))
    assert sheet.shape == (2 * (20 + CAPTION_HEIGHT + GAP) + GAP, 3 * (30 + GAP) + GAP, 3)
    top = GAP + CAPTION_HEIGHT + 10
    shown = [sheet[top, GAP + column * (30 + GAP) + 15, 0] for column in range(3)]
    assert shown == [0, 80, 160]
    assert sheet[top + 20 + CAPTION_HEIGHT + GAP, GAP + 15, 0] == 5


def test_captions_must_match_clips() -> None:
    with pytest.raises(ValueError, match="0 clips came with 1 captions"):
        make_sheet([], ["alone"])
