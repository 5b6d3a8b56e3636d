"""The detector on drawn clips: right on true ones, also through distortions, and not lenient on faulty ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from examples.train_sprites.calibrate import REVERSIBLE, calibrate
from examples.train_sprites.draw import draw_batch, to_uint8
from examples.train_sprites.faults import DISTORTIONS, FAULTS
from examples.train_sprites.scenes import SceneBatch, sample_scenes
from reelray.quality.sprites.detector import Verdict, detect, judge, score
from reelray.quality.sprites.scene import Scene
from reelray.quality.sprites.vocabulary import MOTIONS, SHAPES

CLIPS = 4


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scenes() -> SceneBatch:
    return sample_scenes(CLIPS, torch.Generator().manual_seed(11), pair_share=0.5)


@pytest.fixture(scope="module")
def video(scenes: SceneBatch) -> Tensor:
    return draw_batch(scenes, range(81))


def verdicts(video: Tensor, scenes: SceneBatch) -> list[Verdict]:
    return [score(frames, scenes.describe(b)) for b, frames in enumerate(to_uint8(video).numpy())]


def test_true_clips_are_all_right(video: Tensor, scenes: SceneBatch) -> None:
    assert {len(scenes.describe(b).sprites) for b in range(CLIPS)} == {1, 2}
    assert all(verdict.is_all_right for verdict in verdicts(video, scenes))


@pytest.mark.parametrize("name", DISTORTIONS)
def test_distorted_clips_are_seen_through(name: str, video: Tensor, scenes: SceneBatch) -> None:
    distorted = DISTORTIONS[name](video, torch.Generator().manual_seed(0)).clamp(-1, 1)
    assert all(verdict.is_all_right for verdict in verdicts(distorted, scenes))


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_clips_are_not_forgiven(name: str, video: Tensor, scenes: SceneBatch) -> None:
    spoil, attribute = FAULTS[name]
    for b, verdict in enumerate(verdicts(spoil(video, scenes), scenes)):
        if name != "reverse" or any(sprite.motion not in REVERSIBLE for sprite in scenes.describe(b).sprites):
            assert not verdict.to_dict()[attribute]


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_is_named(motion: str) -> None:
    scene = sample_one(motion)
    frames = to_uint8(draw_batch(scene, range(81)))[0].numpy()
    assert score(frames, scene.describe(0)).is_all_right


@pytest.mark.parametrize(("motion", "size"), [("left", (192, 288)), ("bounce", (64, 96))])
def test_a_clip_may_have_another_size(motion: str, size: tuple[int, int]) -> None:
    scene = sample_one(motion)
    frames = to_uint8(draw_batch(scene, range(81), size=size))[0].numpy()
    assert score(frames, scene.describe(0)).is_all_right


def test_an_upright_square_that_shrinks_by_whole_rows_is_still_steady() -> None:
    """Centred on a pixel's corner, all four edges cross their pixels at once: the hardest case."""
    scene = replace(
        sample_one("shrink"),
        shape_BK=torch.full((1, 2), SHAPES.index("square")),
        x_BK=torch.full((1, 2), 60.0),
        y_BK=torch.full((1, 2), 50.0),
        radius_BK=torch.full((1, 2), 20.5),
        rate_BK=torch.full((1, 2), 0.13),
    )
    frames = to_uint8(draw_batch(scene, range(81)))[0].numpy()
    assert score(frames, scene.describe(0)).is_all_right


def test_a_spring_back_amid_the_clip_is_part_of_growing() -> None:
    scene = sample_one("grow")
    frames = to_uint8(draw_batch(scene, range(40, 121)))[0].numpy()
    assert score(frames, scene.describe(0)).is_all_right


def sample_one(motion: str) -> SceneBatch:
    scenes = sample_scenes(400, torch.Generator().manual_seed(5), pair_share=0)
    b = int((scenes.motion_BK[:, 0] == list(MOTIONS).index(motion)).nonzero()[0])
    return SceneBatch(**{name: getattr(scenes, name)[b : b + 1] for name in SceneBatch.__slots__})


def test_a_second_sprite_of_the_same_colour_is_counted(scenes: SceneBatch) -> None:
    pairs = replace(scenes, color_BK=scenes.color_BK[:, :1].expand(-1, 2))
    for b in scenes.present_BK[:, 1].nonzero()[:, 0].tolist():
        one = SceneBatch(**{name: getattr(pairs, name)[b : b + 1] for name in SceneBatch.__slots__})
        described = one.describe(0)
        seen = detect(to_uint8(draw_batch(one, range(81)))[0].numpy())
        assert seen.count != 1
        alone = Scene(background=described.background, sprites=described.sprites[:1])
        assert not judge(seen, alone).count


def test_a_clip_of_nothing_shows_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 128, 192, 3), np.uint8)
    assert detect(noise).count is None or detect(noise).count == 0
    flat = np.full((20, 128, 192, 3), 60, np.uint8)
    assert detect(flat).sprites == ()
    assert detect(flat).count == 0
    assert detect(flat).background is None


def test_a_sprite_of_an_unknown_colour_is_counted_but_has_no_colour() -> None:
    frames = np.full((40, 128, 192, 3), 10, np.uint8)
    for t in range(40):
        frames[t, 40:80, 30 + 2 * t : 70 + 2 * t] = (110, 120, 50)
    seen = detect(frames)
    assert (seen.background, seen.count) == ("black", 1)
    assert seen.sprites[0].color is None
    assert (seen.sprites[0].shape, seen.sprites[0].motion) == ("square", "right")


@pytest.mark.parametrize(
    "frames",
    [np.zeros((2, 128, 192, 3), np.float32), np.zeros((128, 192, 3), np.uint8), np.zeros((2, 128, 128, 3), np.uint8)],
)
def test_what_is_no_clip_is_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="frames are"):
        detect(frames)


def test_calibration_tells_true_from_shuffled() -> None:
    report = calibrate(2, seed=1, kinds=("true", "freeze"))
    assert report["right"]["true"]["all"] == 1.0
    assert report["right"]["shuffled_captions"]["all"] == 0.0
    assert report["faults_found"] == {"freeze": 1.0}
