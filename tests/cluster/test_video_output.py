"""Nothing appears under the final name before `commit`, and nothing stays behind."""

import os
import threading
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from reelray.cluster.background_writer import QUEUED_BATCHES, BackgroundWriter
from reelray.cluster.video_format import VideoFormat
from reelray.cluster.video_info import read_video_info
from reelray.cluster.video_output import VideoOutput
from reelray.cluster.video_writer import VideoSpec
from reelray.proto.errors import OutputError

SPEC = VideoSpec(width=16, height=16, frames=3, fps=Fraction(16))
FRAMES = np.arange(3 * 16 * 16 * 3, dtype=np.uint8).reshape(3, 16, 16, 3)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("video_format", list(VideoFormat))
def test_appears_at_commit(tmp_path, video_format):
    with VideoOutput(tmp_path / "out", video_format) as output:
        output.start(SPEC)
        output.write(FRAMES)
        assert "out" not in names(tmp_path)
        output.commit()
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("video_format", list(VideoFormat))
@pytest.mark.parametrize("stage", ["claimed", "started", "written"])
def test_nothing_stays_without_commit(tmp_path, video_format, stage):
    with VideoOutput(tmp_path / "out", video_format) as output:
        assert names(tmp_path)
        if stage != "claimed":
            output.start(SPEC)
        if stage == "written":
            output.write(FRAMES)
    assert names(tmp_path) == []


@pytest.mark.parametrize("video_format", [VideoFormat.MP4, VideoFormat.WEBM, VideoFormat.PNG_DIR])
def test_facts_that_are_known_late_are_in_the_file(tmp_path, video_format):
    """The frames are those of a file that had them from the start."""
    spec = replace(SPEC, metadata={"prompt": "one", "seed": 7})
    late = {"prompt": "one", "seed": 7, "later_prompts": [{"prompt": "zwölf"}]}
    contents = []
    for name, start, end in (("known", late, late), ("late", spec.metadata, late), ("none", spec.metadata, None)):
        with VideoOutput(tmp_path / name, video_format) as output:
            output.start(replace(spec, metadata=start))
            output.write(FRAMES)
            output.commit(end)
        info = read_video_info(tmp_path / name)
        contents.append(read_packets(tmp_path / name))
        assert info.get("later_prompts") == (None if name == "none" else late["later_prompts"])
        assert (info["prompt"], info["frames"]) == ("one", 3)
    assert contents[0] == contents[1] == contents[2]
    assert names(tmp_path) == ["known", "late", "none"]


def read_packets(path):
    """What is shown, and when."""
    if path.is_dir():
        return [file.read_bytes() for file in sorted(path.glob("*.png"))]
    with av.open(str(path)) as container:
        return [(p.pts, p.dts, p.duration, p.is_keyframe, bytes(p)) for p in container.demux(video=0)]


def test_png_folder_of_ours_is_replaced_whole(tmp_path):
    for count in (3, 1):
        with VideoOutput(tmp_path / "out", VideoFormat.PNG_DIR) as output:
            output.start(SPEC)
            output.write(FRAMES[:count])
            output.commit()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["frame_000000.png", "reelray.json"]


def test_link_keeps_its_name_and_the_target_is_replaced(tmp_path):
    (tmp_path / "target.npy").write_text("old")
    (tmp_path / "link.npy").symlink_to("target.npy")
    with VideoOutput(tmp_path / "link.npy", VideoFormat.RAW) as output:
        output.start(SPEC)
        output.write(FRAMES)
        output.commit()
    assert (tmp_path / "link.npy").is_symlink()
    assert np.array_equal(np.load(tmp_path / "target.npy"), FRAMES)


def test_file_gets_ordinary_permissions(tmp_path):
    with VideoOutput(tmp_path / "out.npy", VideoFormat.RAW) as output:
        output.start(SPEC)
        output.write(FRAMES)
        output.commit()
    (tmp_path / "ordinary").touch()
    assert os.stat(tmp_path / "out.npy").st_mode == os.stat(tmp_path / "ordinary").st_mode  # noqa: PTH116


def test_longest_name_works(tmp_path):
    name = "x" * 251 + ".npy"
    with VideoOutput(tmp_path / name, VideoFormat.RAW) as output:
        output.start(SPEC)
        output.write(FRAMES)
        output.commit()
    assert names(tmp_path) == [name]


class RecordingOutput:
    """Stands for a started `VideoOutput`; `gate` holds writes back."""

    def __init__(self, error=None):
        self.gate, self.error = threading.Event(), error
        self.written, self.committed = [], False

    def write(self, frames):
        self.gate.wait()
        if self.error is not None:
            raise self.error
        self.written.append(int(frames[0, 0, 0, 0]))

    def commit(self, metadata=None):
        self.committed, self.metadata = True, metadata

    def check(self):
        pass

    def interrupt(self):
        pass


def batch(number):
    return np.full((1, 2, 2, 3), number, np.uint8)


def feed(writer, count):
    for number in range(count):
        writer.write(batch(number))


def test_background_writer_keeps_order_and_commits():
    output = RecordingOutput()
    output.gate.set()
    writer = BackgroundWriter(output)
    for number in range(20):
        writer.write(batch(number))
    writer.finish({"prompt": "late"})
    writer.close()
    assert (output.written, output.committed, output.metadata) == (list(range(20)), True, {"prompt": "late"})


def test_background_writer_holds_the_engine_back():
    output = RecordingOutput()
    writer = BackgroundWriter(output)
    fed = []
    feeder = threading.Thread(target=lambda: [(writer.write(batch(n)), fed.append(n)) for n in range(20)])
    feeder.start()
    feeder.join(0.5)
    # one batch is being written, the queue is full, and one more waits for room
    assert len(fed) <= QUEUED_BATCHES + 1
    output.gate.set()
    feeder.join()
    writer.finish()
    assert output.written == list(range(20))


def test_background_writer_raises_what_went_wrong_and_never_commits():
    output = RecordingOutput(OutputError("the disk is full"))
    output.gate.set()
    writer = BackgroundWriter(output)
    with pytest.raises(OutputError, match="the disk is full"):
        feed(writer, 1000)
    with pytest.raises(OutputError, match="the disk is full"):
        writer.finish()
    writer.close()
    assert not output.committed


def test_background_writer_raises_what_goes_wrong_with_the_last_batch():
    output = RecordingOutput(OutputError("the disk is full"))
    writer = BackgroundWriter(output)
    writer.write(batch(0))
    opener = threading.Timer(0.1, output.gate.set)  # after `finish` has queued the end
    opener.start()
    with pytest.raises(OutputError, match="the disk is full"):
        writer.finish()
    opener.join()
    writer.close()
    assert not output.committed


def test_background_writer_drops_what_is_queued_when_closed():
    output = RecordingOutput()
    writer = BackgroundWriter(output)
    for number in range(QUEUED_BATCHES):
        writer.write(batch(number))
    closer = threading.Thread(target=writer.close)
    closer.start()
    output.gate.set()
    closer.join()
    assert len(output.written) < QUEUED_BATCHES
    assert not output.committed
