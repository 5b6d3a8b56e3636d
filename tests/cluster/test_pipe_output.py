"""A video in a pipe can be watched while it is made, and a reader that is slow or gone holds nobody up for ever."""

import errno
import io
import os
import threading
from fractions import Fraction

import av
import numpy as np
import pytest

from reelray.cluster.background_writer import QUEUED_BATCHES, BackgroundWriter
from reelray.cluster.output_choice import choose_format, open_output
from reelray.cluster.video_format import VideoFormat
from reelray.cluster.video_writer import VideoSpec
from reelray.proto.errors import InputError, OutputError

FRAMES = np.repeat(np.arange(12, dtype=np.uint8) * 20, 16 * 16 * 3).reshape(12, 16, 16, 3)
SPEC = VideoSpec(width=16, height=16, frames=12, fps=Fraction(16), metadata={"prompt": "a disc", "seed": 7})


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "clip"
    os.mkfifo(path)
    return path


@pytest.fixture
def reader(pipe):
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as reader:
        yield reader


def open_pipe(path, video_format, told=None):
    return open_output(str(path), video_format, replace=True, tell=(told if told is not None else []).append)


def decode(data):
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        tags = {name.lower(): value for name, value in container.metadata.items()}
    return np.stack(frames), tags


@pytest.mark.parametrize("video_format", [VideoFormat.MP4, VideoFormat.WEBM])
def test_a_frame_is_seen_when_the_next_one_is_made(pipe, reader, video_format):
    with open_pipe(pipe, video_format) as output:
        output.start(SPEC)
        output.write(FRAMES[:8])
        data = reader.read()
        early, tags = decode(data)
        assert len(early) >= 7
        assert tags["comment"] == '{"prompt": "a disc", "seed": 7}'
        output.write(FRAMES[8:])
        output.commit()
    whole, _ = decode(data + reader.read())
    assert len(whole) == 12
    assert np.abs(whole.astype(int) - FRAMES).max() <= 6
    assert reader.read() == b""  # nobody writes there any more
    assert pipe.is_fifo()


def test_gif_and_pixels_go_there_too(pipe, reader):
    with open_pipe(pipe, VideoFormat.RAW) as output:
        output.start(SPEC)
        output.write(FRAMES[:5, :, ::-1])  # of a view
        assert reader.read() == FRAMES[:5].tobytes()
        output.commit()
    with open_pipe(pipe, VideoFormat.GIF) as output:
        output.start(SPEC)
        output.write(FRAMES)
        output.commit()
    assert len(decode(reader.read())[0]) == 12


def test_a_reader_that_comes_late_is_waited_for(pipe):
    told, read = [], []
    late = threading.Timer(0.4, lambda: read.append(pipe.read_bytes()))
    late.start()
    with open_pipe(pipe, VideoFormat.RAW, told) as output:
        output.start(SPEC)
        output.write(FRAMES)
        output.commit()
    late.join()
    assert read == [FRAMES.tobytes()]
    assert told == [f"waiting for somebody to read {pipe}"]


@pytest.mark.parametrize("video_format", [VideoFormat.RAW, VideoFormat.MP4])
def test_a_reader_that_left_is_told_as_such(pipe, video_format):
    leaving = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with open_pipe(pipe, video_format) as output:
        output.start(SPEC)
        output.write(FRAMES[:2])
        os.close(leaving)
        with pytest.raises(BrokenPipeError):
            output.write(FRAMES[2:])


@pytest.mark.usefixtures("reader")
def test_a_reader_that_stands_still_can_be_left(pipe):
    """The pipe holds less than one of these batches."""
    large = np.zeros((1, 256, 512, 3), np.uint8)
    with open_pipe(pipe, VideoFormat.RAW) as output:
        output.start(SPEC)
        writer = BackgroundWriter(output)
        for _ in range(QUEUED_BATCHES):
            writer.write(large)
        writer.close()


def test_another_error_is_one_of_output(pipe, reader, monkeypatch):
    with open_pipe(pipe, VideoFormat.RAW) as output:
        output.start(SPEC)

        def fail(_descriptor, _data):
            raise OSError(errno.EIO, "I/O error")

        with monkeypatch.context() as broken:
            broken.setattr(os, "write", fail)
            with pytest.raises(OutputError, match=r"clip': the disk reports an error"):
                output.write(FRAMES)
    assert reader.read() == b""


def test_a_terminal_and_a_folder_are_refused(pipe):
    with pytest.raises(InputError, match="say --format mp4, webm, gif or raw"):
        open_pipe(pipe, VideoFormat.PNG_DIR)
    ours, theirs = os.openpty()
    with pytest.raises(InputError, match=r"terminal; send it on, such as: reelray … -o - \| ffplay -"):
        open_pipe(os.ttyname(theirs), VideoFormat.RAW)
    os.close(ours)
    os.close(theirs)


def test_what_has_no_ending_and_cannot_be_taken_back_is_mp4(pipe, tmp_path):
    assert choose_format("-", None) is choose_format(str(pipe), None) is VideoFormat.MP4
    assert choose_format("/dev/stdout", VideoFormat.RAW) is VideoFormat.RAW
    with pytest.raises(InputError, match="- is standard output"):
        choose_format(str(tmp_path / "other"), None)
