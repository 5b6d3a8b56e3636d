"""Every failure is one clear line, an exit code, and nothing left behind."""

import errno
import os
import signal
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from reelray.cluster.cli import main
from reelray.proto.errors import CancelledError, EngineError, WeightsError
from tests.support.commands import start_process
from tests.support.fake_engine import FakeEngine, fake_services, write_models

OUT = ("-o", "clip.mp4")


def check_one_line(cli, ran, code, *wanted):
    """One line on stderr, with every wanted part, and an untouched folder."""
    assert ran.code == code, ran.err
    assert ran.out == ""
    assert len(ran.error_lines) == 1, ran.err
    assert ran.err.rstrip().endswith(ran.error_lines[0]), "the error is the last line"
    assert "Traceback" not in ran.err
    for part in wanted:
        assert part in ran.error_lines[0], ran.error_lines[0]
    assert not [name for name in cli.files() if name.endswith((".part", ".mp4", ".npy"))]


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        ((" ",), 2, ["prompt is empty"]),
        (("x" * 100_000,), 2, ["100000 characters", "at most 2000"]),
        (("a\0b",), 2, ["NUL"]),
        (("a \udcff",), 2, ["UTF-8"]),
        (("p", "--model", ""), 2, ["model's name is empty"]),
        (("p", "--negative", "x" * 9999), 2, ["negative prompt has 9999 characters"]),
        (("p", "--size", "100x64"), 2, ["100", "96 and 112", "nearest size: 96x64"]),
        (("p", "--size", "0x64"), 2, ["size 0x64", "nearest size: 16x64"]),
        (("p", "--size", "wide"), 2, ["'wide'", "WIDTHxHEIGHT"]),
        (("p", "--frames", 16), 2, ["16 frames", "4n+1", "13 or 17"]),
        (("p", "--frames", 0), 2, ["0 frames", "4n+1"]),
        (("p", "--frames", 17, "--seconds", 1), 2, ["both frames and seconds"]),
        (("p", "--seconds", 0), 2, ["seconds is '0'", "greater than 0"]),
        (("p", "--seconds", "nan"), 2, ["seconds is 'nan'", "such as 6, 6.5s or 1:30"]),
        (("p", "--seconds", "1:30:00"), 2, ["seconds is '1:30:00'"]),
        (("a", "disc"), 2, ["(disc); words that belong together go in quotes"]),
        (("p", "--steps", 0), 2, ["steps is 0", "1..1000"]),
        (("p", "--seed", -1), 2, ["seed is -1", "0.."]),
        (("p", "--seed", 2**63), 2, [f"seed is {2**63}"]),
        (("p", "--guidance", -1), 2, ["guidance is -1"]),
        (("p", "--guidance", "inf"), 2, ["guidance is inf"]),
        (("p", "--fps", 0), 2, ["fps is 0", "at most 240"]),
        (("p", "--fps", "1e-9"), 2, ["fps"]),
        (("p", "--model", "fakes"), 2, ["unknown model 'fakes'", "did you mean 'fake'", "models here: fake"]),
        (("p", "--model", "wan2.1-t2v-1.3b"), 2, ["is known", "weights are not here"]),
        (("p", "--model", "./nothing"), 2, ["'./nothing' does not exist"]),
        (("p", "--model", "."), 3, ["is not a checkpoint", "manifest.yaml"]),
        (("p", "--image", "boat.png"), 2, ["takes no image"]),
        (("p", "--frames", 4_000_001), 5, ["4000001 frames", "GB of memory", "fewer frames"]),
        (("p", "--steps", "many"), 2, ["--steps", "see reelray --help"]),
        (("p", "--nonsense"), 2, ["--nonsense"]),
        (("p", "--device", "tpu"), 2, ["--device", "tpu"]),
        (("p", "--output", ""), 2, ["name is empty", "-o clip.mp4"]),
        ((), 2, ["PROMPT"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_wishes(cli, arguments, code, wanted):
    check_one_line(cli, cli.run("render", *OUT, *arguments), code, *wanted)
    assert not cli.engine.requests


@pytest.mark.parametrize(
    ("output", "code", "wanted"),
    [
        ("no/such/clip.mp4", 4, ["no/such/clip.mp4", "folder does not exist"]),
        ("clip.avi", 2, ["'.avi'", ".mp4", "--format"]),
        ("clip", 2, ["has no ending"]),
        ("x" * 300 + ".mp4", 4, ["too long"]),
        ("file/clip.mp4", 4, ["not a folder"]),
    ],
)
def test_wrong_output_names(cli, output, code, wanted):
    (cli.cwd / "file").touch()
    check_one_line(cli, cli.run("render", "p", "-o", output), code, *wanted)
    assert not cli.engine.requests


def test_broken_links_are_not_replaced(cli):
    (cli.cwd / "clip").mkdir()
    (cli.cwd / "clip" / "loop.npy").symlink_to("loop.npy")
    check_one_line(cli, cli.run("render", "p", "-o", "clip/loop.npy"), 4, "cannot replace")
    assert (cli.cwd / "clip" / "loop.npy").is_symlink()


def test_folders_with_other_files_are_not_replaced(cli):
    (cli.cwd / "frames").mkdir()
    (cli.cwd / "frames" / "thesis.txt").touch()
    check_one_line(cli, cli.run("render", "p", "-o", "frames/"), 4, "other files")
    check_one_line(cli, cli.run("render", "p", "-o", "frames", "--format", "mp4"), 4, "frames/clip.mp4")
    assert (cli.cwd / "frames" / "thesis.txt").exists()


@pytest.mark.parametrize(("number", "words"), [(errno.EACCES, "permission denied"), (errno.EROFS, "read-only")])
def test_unwritable_folder_is_found_before_rendering(cli, monkeypatch, number, words):
    def refuse(self, **_):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    check_one_line(cli, cli.run("render", "p", *OUT), 4, "clip.mp4", words)
    assert not cli.engine.requests


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_without_write_permission(cli):
    (cli.cwd / "locked").mkdir(mode=0o500)
    check_one_line(cli, cli.run("render", "p", "-o", "locked/clip.mp4"), 4, "permission denied")


def test_input_images(cli):
    from dataclasses import replace

    from tests.support.fake_engine import FACTS, RECIPE, fake_entry, fake_services

    i2v = lambda path: fake_entry(path=path, recipe=replace(RECIPE, task="i2v"), facts=FACTS)  # noqa: E731
    cli.services = fake_services(cli.engine, cli.cwd.parent / "models", entry=i2v)
    (cli.cwd / "text.png").write_text("not a picture")
    Image.effect_noise((300, 200), 80).save(cli.cwd / "whole.png")
    (cli.cwd / "cut.png").write_bytes((cli.cwd / "whole.png").read_bytes()[:300])
    check_one_line(cli, cli.run("render", "p", *OUT), 2, "continues a picture", "--image FILE")
    check_one_line(cli, cli.run("render", "p", *OUT, "--image", "none.png"), 2, "none.png", "does not exist")
    check_one_line(cli, cli.run("render", "p", *OUT, "--image", "text.png"), 2, "text.png", "not an image")
    check_one_line(cli, cli.run("render", "p", *OUT, "--image", "cut.png"), 2, "cut.png", "cannot be read")
    check_one_line(cli, cli.run("render", "p", *OUT, "--image", "."), 2, "image '.'")
    assert cli.run("render", "p", *OUT, "--image", "whole.png").code == 0
    request = cli.engine.requests[-1]
    assert request.width / request.height == pytest.approx(1.5, abs=0.25)


@pytest.mark.parametrize(
    ("error", "code", "wanted"),
    [
        (WeightsError("transformer/model.safetensors is cut off"), 3, "is cut off"),
        (EngineError("rank 1 was lost"), 6, "rank 1 was lost"),
        (CancelledError("stopped by somebody"), 130, "stopped"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 5, "memory"),
        (RuntimeError("two\nlines"), 1, "unexpected RuntimeError: two lines"),
        (EOFError(), 1, "unexpected EOFError; run again"),
        (EOFError("a pipe has ended"), 1, "unexpected EOFError: a pipe has ended"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("fail_at_frame", [0, 8])
def test_engine_failures(cli, error, code, wanted, fail_at_frame):
    cli.engine.error, cli.engine.fail_at_frame = error, fail_at_frame
    check_one_line(cli, cli.run("render", "p", *OUT), code, wanted)
    assert cli.engine.closed == 1


def test_missing_frames_are_an_engine_failure(cli):
    cli.engine.drop_last_frame = True
    check_one_line(cli, cli.run("render", "p", *OUT), 6, "16 of 17 frames")


def test_debug_shows_the_stack_trace(cli):
    cli.engine.error = RuntimeError("broken")
    for arguments in (("render", "p", *OUT, "--debug"), ("--debug", "render", "p", *OUT)):
        ran = cli.run(*arguments)
        assert "Traceback" in ran.err
        assert ran.error_lines[0].startswith("reelray: error: unexpected RuntimeError: broken")


class FullDisk:
    """A writer whose disk fills up at the second batch, or only when the file is closed."""

    def __init__(self, path, *, at_close):
        self.file, self.batches, self.at_close = path.open("wb"), 0, at_close

    def write(self, frames):
        self.file.write(frames.tobytes())
        self.batches += 1
        if self.batches > 1 and not self.at_close:
            raise OSError(errno.ENOSPC, "No space left on device")

    def close(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    def abandon(self):
        self.file.close()


@pytest.mark.parametrize("at_close", [False, True])
def test_full_disk(cli, monkeypatch, at_close):
    from reelray.cluster import video_output

    writer = lambda path, _spec: FullDisk(path, at_close=at_close)  # noqa: E731
    monkeypatch.setattr(video_output, "load_writer", lambda _format: writer)
    check_one_line(cli, cli.run("render", "p", *OUT), 4, "clip.mp4", "the disk is full")
    assert cli.engine.closed == 1


def test_raw_frames_larger_than_the_disk_are_refused_before_rendering(cli, monkeypatch):
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    check_one_line(cli, cli.run("render", "p", "-o", "clip.npy"), 4, "raw frames need", "use .mp4")
    assert not cli.engine.requests


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


RENDER = """
from reelray.cluster.cli import main
from tests.support.fake_engine import FakeEngine, fake_services, write_models
from pathlib import Path
models = write_models(Path("models"))
sys.exit(main(["render", "p", *sys.argv[2:]], fake_services(FakeEngine(frame_delay_s=float(sys.argv[1])), models)))
"""


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif", "npy"])
def test_real_encoders_against_a_size_limit(tmp_path, suffix):
    limit = 2000
    code = f"import resource, signal\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n" + RENDER
    with start_process(code, tmp_path, "0", "-o", f"clip.{suffix}", "--frames", "257") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 4, err
    assert f"cannot write 'clip.{suffix}': the file would be larger" in err.splitlines()[-1]
    assert names_in(tmp_path) == ["models"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_real_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with start_process(RENDER, tmp_path, "0", "-o", "disk/clip.gif", "--frames", "257") as process:
            _, err = process.communicate(timeout=60)
        assert process.returncode == 4, err
        assert err.splitlines()[-1] == "reelray: error: cannot write 'disk/clip.gif': the disk is full"
        assert names_in(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_remove_the_partial_file(tmp_path, number, code):
    with start_process(RENDER, tmp_path, "0.2", "-o", "clip.mp4", "--frames", "4001") as process:
        assert process.stderr is not None
        while "decoding" not in process.stderr.readline():
            pass
        assert [name for name in names_in(tmp_path) if name.endswith(".part")]
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    assert names_in(tmp_path) == ["models"]


def test_who_is_ended_while_ray_waits_says_so_with_the_exit_code(tmp_path, monkeypatch):
    """Ray turns whatever a signal raises amid its own waiting into an exit with 1."""
    engine = FakeEngine()

    def render(_request, _snapshot=None):
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)
        raise SystemExit(1)

    monkeypatch.setattr(engine, "render", render)
    monkeypatch.chdir(tmp_path)
    write_models(tmp_path / "models")
    with pytest.raises(SystemExit) as left:
        main(["render", "a", "-o", "clip.mp4"], fake_services(engine, tmp_path / "models"))
    assert left.value.code == 143
    assert names_in(tmp_path) == ["models"]
