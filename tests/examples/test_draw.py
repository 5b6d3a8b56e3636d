import pytest
import torch

from examples.train_sprites.draw import Crop, draw_batch, frame_windows, to_uint8
from examples.train_sprites.scenes import SceneBatch, sample_scenes
from reelray.quality.sprites.vocabulary import COLORS


@pytest.fixture(scope="module")
def scenes() -> SceneBatch:
    return sample_scenes(6, torch.Generator().manual_seed(7))


def test_a_video_has_the_asked_form_and_range(scenes: SceneBatch) -> None:
    video = draw_batch(scenes, range(5))
    assert video.shape == (6, 3, 5, 128, 192)
    assert video.dtype == torch.float32
    assert video.amin() >= -1
    assert video.amax() <= 1
    assert to_uint8(video).shape == (6, 5, 128, 192, 3)


def test_windows_and_crops_are_parts_of_the_whole(scenes: SceneBatch) -> None:
    whole = draw_batch(scenes, range(12))
    start_B = torch.tensor([0, 1, 2, 3, 4, 5])
    top_B, left_B = torch.tensor([0, 64, 10, 20, 30, 40]), torch.tensor([128, 0, 50, 60, 70, 80])
    crop = Crop(top_B=top_B, left_B=left_B, height=64, width=48)
    part = draw_batch(scenes, frame_windows(start_B, 4), crop=crop)
    for b in range(6):
        t, y, x = int(start_B[b]), int(top_B[b]), int(left_B[b])
        torch.testing.assert_close(part[b], whole[b, :, t : t + 4, y : y + 64, x : x + 48], atol=1e-4, rtol=0)


def test_a_larger_picture_averages_to_the_canvas(scenes: SceneBatch) -> None:
    small = draw_batch(scenes, range(2))
    large = draw_batch(scenes, range(2), size=(256, 384))
    averaged = torch.nn.functional.avg_pool2d(large.flatten(1, 2), 2).reshape(small.shape)
    assert (averaged - small).abs().mean() < 0.002
    assert (averaged - small).abs().max() < 0.25


def test_a_batch_draws_what_its_scenes_draw_alone(scenes: SceneBatch) -> None:
    batch = draw_batch(scenes, range(3))
    for b in range(6):
        alone = SceneBatch(**{name: getattr(scenes, name)[b : b + 1] for name in SceneBatch.__slots__})
        torch.testing.assert_close(draw_batch(alone, range(3))[0], batch[b], atol=1e-5, rtol=0)


def test_every_sprite_shows_its_colour_and_stays_in_sight() -> None:
    scenes = sample_scenes(24, torch.Generator().manual_seed(1))
    frames = to_uint8(draw_batch(scenes, range(0, 160, 16))).float()
    for b in range(24):
        for sprite in scenes.describe(b).sprites:
            distance = (frames[b] - torch.tensor(COLORS[sprite.color])).norm(dim=-1)
            assert ((distance < 45).sum(dim=(1, 2)) > 100).all()


def test_motion_never_jumps_nor_rests() -> None:
    scenes = sample_scenes(12, torch.Generator().manual_seed(2))
    video = draw_batch(scenes, range(81), size=(64, 96))
    change = video.diff(dim=2).abs().mean(dim=(1, 3, 4))
    assert (change.amin(dim=1) > 1e-6).all()
    assert change.amax() < 0.05


def test_an_empty_crop_is_refused() -> None:
    with pytest.raises(ValueError, match="0 x 8"):
        Crop(top_B=torch.zeros(1), left_B=torch.zeros(1), height=0, width=8)
