"""H.264, VP9 and GIF through PyAV, frame by frame."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

from reelray.cluster.video_encodings import Encoding
from reelray.cluster.video_writer import ByteSink, FramesArray, VideoSpec

TITLE_CHARACTERS = 200


class AvWriter:
    """Encodes RGB frames into one container.

    Args:
        encoding: How.
        target: A path, or where bytes go in order.
        spec: What comes.
        first_frame: Place of the first frame in time, for a part of a video.
    """

    def __init__(self, encoding: Encoding, target: Path | ByteSink, spec: VideoSpec, *, first_frame: int = 0) -> None:
        self._encoding = encoding
        self._frames = first_frame
        width, height = spec.width, spec.height
        if encoding.even_sides:
            width, height = width + width % 2, height + height % 2
        # An absolute path cannot be mistaken for a URL ("a:b.mp4").
        place: Any = str(target.absolute()) if isinstance(target, Path) else target
        self._container: Any = av.open(place, "w", format=encoding.container, options=dict(encoding.muxer_options))
        self._container.metadata.update(container_metadata(spec))
        self._stream: Any = self._container.add_stream(encoding.codec, rate=spec.fps)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = encoding.pixel_format
        self._stream.options = dict(encoding.codec_options)
        self._palettes = _palette_graph(width, height, spec) if encoding.pixel_format == "pal8" else None
        if self._palettes is None:
            _tag_bt709(self._stream.codec_context)

    def write(self, frames_FHWC: FramesArray) -> None:
        """Append RGB frames; an odd side is padded with its last row or column where the codec needs it."""
        for frame_HWC in frames_FHWC:
            picture = av.VideoFrame.from_ndarray(_fit(frame_HWC, self._stream), format="rgb24")
            picture.pts = self._frames
            self._frames += 1
            self._encode(picture)

    def close(self) -> None:
        """Flush the encoder and finish the container."""
        if self._palettes is not None:
            self._encode(None)  # a filter may hold its last picture until it hears that none follows
        self._container.mux(self._stream.encode())
        self._container.close()

    def abandon(self) -> None:
        """Let go of the file."""
        with contextlib.suppress(OSError, ValueError):
            self._container.close()

    def _encode(self, picture: Any | None) -> None:
        for converted in self._convert(picture):
            self._container.mux(self._stream.encode(converted))

    def _convert(self, picture: Any | None) -> Iterator[Any]:
        if self._palettes is not None:
            self._palettes.vpush(picture)
            yield from _pull(self._palettes)
            return
        assert picture is not None, "only a palette graph is flushed"
        converted = picture.reformat(
            format=self._encoding.pixel_format,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.AREA | Interpolation.ACCURATE_RND,
        )
        converted.pts = picture.pts
        yield converted


def container_metadata(spec: VideoSpec) -> dict[str, str]:
    """The facts of a video as tags of a container."""
    if not spec.metadata:
        return {}
    title = str(spec.metadata.get("prompt", ""))
    if len(title) > TITLE_CHARACTERS:
        title = title[: TITLE_CHARACTERS - 1] + "…"
    return {"title": title, "comment": json.dumps(dict(spec.metadata), ensure_ascii=False)}


def _tag_bt709(codec_context: Any) -> None:
    codec_context.colorspace = Colorspace.ITU709
    codec_context.color_primaries = ColorPrimaries.BT709
    codec_context.color_trc = ColorTrc.BT709
    codec_context.color_range = ColorRange.MPEG


def _palette_graph(width: int, height: int, spec: VideoSpec) -> Any:
    """RGB in, pal8 out, a new palette for each frame: memory stays bounded and no colour is lost to older frames."""
    graph: Any = Graph()
    source = graph.add_buffer(width=width, height=height, format="rgb24", time_base=1 / spec.fps)
    split = graph.add("split")
    make = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    use = graph.add("paletteuse", "new=1:dither=sierra2_4a")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(make, 1, 0)
    make.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph


def _pull(graph: Any) -> Iterator[Any]:
    # The graph says "try again" when it wants the next picture, and "end of file" after the last.
    with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
        while True:
            yield graph.vpull()


def _fit(frame_HWC: FramesArray, stream: Any) -> FramesArray:
    bottom, right = stream.height - frame_HWC.shape[0], stream.width - frame_HWC.shape[1]
    if bottom or right:
        frame_HWC = np.pad(frame_HWC, ((0, bottom), (0, right), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame_HWC)
