"""`reelray render` with the fake engine: what comes out, where, and in which channel."""

import json

import numpy as np
import pytest
from PIL import Image

from reelray.cluster.video_info import read_video_info
from tests.support.fake_engine import FakeEngine, draw_frames


def test_writes_the_video_and_says_so_on_stderr_only(cli):
    ran = cli.run("render", "a red circle", "-o", "clip.mp4", "--seed", 7)
    assert (ran.code, ran.out) == (0, "")
    assert "seed 7" in ran.err
    assert "wrote clip.mp4: 17 frames" in ran.err
    assert cli.files() == ["clip.mp4"]
    assert cli.engine.closed == 1


def test_json_is_all_of_stdout_and_matches_the_file(cli):
    ran = cli.run("render", "a red circle", "-o", "clip.mp4", "--steps", 6, "--guidance", 2, "--fps", 8, "--json")
    said, inside = json.loads(ran.out), read_video_info(cli.cwd / "clip.mp4")
    assert said["seed"] == cli.engine.requests[0].seed == inside["seed"]
    assert said["file"] == str(cli.cwd / "clip.mp4")
    assert said["seconds"]["denoise"] == 1.0
    assert said["seconds"]["total"] > 0
    for name in ("prompt", "model", "model_digest", "steps", "guidance", "fps", "width", "height", "frames"):
        assert said[name] == inside[name], name
    assert (inside["steps"], inside["guidance"], inside["fps"]) == (6, 2.0, 8.0)


def test_seed_is_random_unless_given(cli):
    for _ in range(2):
        cli.run("render", "a red circle", "-o", "a.npy")
    cli.run("render", "a red circle", "-o", "a.npy", "--seed", 5)
    seeds = [request.seed for request in cli.engine.requests]
    assert seeds[0] != seeds[1]
    assert seeds[2] == 5


def test_raw_frames_are_exact(cli):
    assert cli.run("render", "a red circle", "-o", "clip.npy").code == 0
    assert np.array_equal(np.load(cli.cwd / "clip.npy"), draw_frames(cli.engine.requests[0]))


def test_png_folder_is_exact(cli):
    assert cli.run("render", "a red circle", "-o", "frames/").code == 0
    frames = draw_frames(cli.engine.requests[0])
    assert len(list((cli.cwd / "frames").glob("frame_*.png"))) == len(frames)
    assert np.array_equal(np.asarray(Image.open(cli.cwd / "frames" / "frame_000016.png")), frames[16])
    assert json.loads((cli.cwd / "frames" / "reelray.json").read_text())["prompt"] == "a red circle"


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "vp9"), ("a.gif", "gif"), ("A.MP4", "h264")])
def test_ending_chooses_the_format(cli, name, codec):
    assert cli.run("render", "a red circle", "-o", name).code == 0
    info = read_video_info(cli.cwd / name)
    assert (info["format"], info["frames"]) == (codec, 17)


def test_format_option_wins_over_the_ending(cli):
    assert cli.run("render", "a red circle", "-o", "clip.bin", "--format", "gif").code == 0
    assert (cli.cwd / "clip.bin").read_bytes().startswith(b"GIF89a")


def test_without_output_the_name_tells_prompt_and_seed(cli):
    assert cli.run("render", "A red circle!", "--seed", 3).code == 0
    assert cli.files() == ["a-red-circle-3.mp4"]


def test_quiet_leaves_both_channels_empty(cli):
    ran = cli.run("render", "a red circle", "-o", "clip.mp4", "--quiet")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_existing_file_is_replaced_at_success(cli):
    (cli.cwd / "clip.mp4").write_text("old")
    ran = cli.run("render", "a red circle", "-o", "clip.mp4")
    assert "replaced clip.mp4" in ran.err
    assert read_video_info(cli.cwd / "clip.mp4")["frames"] == 17


def test_existing_file_survives_a_failure(cli):
    (cli.cwd / "clip.mp4").write_text("old")
    cli.engine.error = MemoryError()
    assert cli.run("render", "a red circle", "-o", "clip.mp4").code == 5
    assert (cli.cwd / "clip.mp4").read_text() == "old"
    assert cli.files() == ["clip.mp4"]


def test_no_clobber_refuses_before_the_engine_starts(cli):
    (cli.cwd / "clip.mp4").write_text("old")
    ran = cli.run("render", "a red circle", "-o", "clip.mp4", "--no-clobber")
    assert ran.code == 4
    assert "--no-clobber" in ran.error_lines[0]
    assert not cli.engine.requests


def test_seconds_are_rounded_up_to_whole_latent_frames(cli):
    cli.run("render", "a red circle", "-o", "a.npy", "--seconds", 2)
    assert cli.engine.requests[0].frames == 33


def test_fake_engine_closes_cancelled_requests():
    """The fake itself: leaving early must be seen, or the tests of cancelling are worth nothing."""
    from reelray.cluster.render import RenderOptions, plan_job
    from tests.support.fake_engine import fake_entry

    engine = FakeEngine()
    events = engine.render(plan_job(RenderOptions(prompt="x"), fake_entry()).request)
    next(events)
    events.close()
    assert engine.cancelled == 1
