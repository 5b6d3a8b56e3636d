"""How each format is encoded: into a file that is complete at its end, or into a pipe that is watched meanwhile."""

from dataclasses import dataclass, field, replace

from reelray.cluster.video_format import VideoFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """How one format is encoded.

    Args:
        container: libav name of the container.
        codec: libav name of the encoder.
        pixel_format: What the encoder takes.
        codec_options: Passed to the encoder.
        muxer_options: Passed to the container.
        even_sides: The encoder refuses odd widths and heights.
    """

    container: str
    codec: str
    pixel_format: str
    codec_options: dict[str, str] = field(default_factory=dict)
    muxer_options: dict[str, str] = field(default_factory=dict)
    even_sides: bool = False


FILES = {
    VideoFormat.MP4: Encoding(
        container="mp4",
        codec="libx264",
        pixel_format="yuv420p",
        # cpu-independent: without it x264's lookahead gives other bytes from run to run with AVX-512 (measured, at no
        # cost in time), and the same frames should give the same file.
        codec_options={"crf": "17", "preset": "medium", "profile": "high", "x264-params": "cpu-independent=1"},
        muxer_options={"movflags": "+faststart"},
        even_sides=True,
    ),
    VideoFormat.WEBM: Encoding(
        container="webm",
        codec="libvpx-vp9",
        pixel_format="yuv420p",
        codec_options={"crf": "22", "b": "0", "row-mt": "1", "deadline": "good", "cpu-used": "3"},
        muxer_options={"fflags": "+bitexact"},  # no random ids
    ),
    VideoFormat.GIF: Encoding(container="gif", codec="gif", pixel_format="pal8", muxer_options={"loop": "0"}),
}

# No encoder looks ahead and each packet leaves at once: a frame is seen when the next one is made.
PIPES = {
    VideoFormat.MP4: replace(
        FILES[VideoFormat.MP4],
        codec_options={
            "crf": "17",
            "preset": "veryfast",
            "tune": "zerolatency",
            "profile": "high",
            # One thread: slices for each core would make the bytes depend on the machine, frames on threads wait.
            "x264-params": "cpu-independent=1:sliced-threads=0:threads=1",
        },
        muxer_options={"movflags": "+frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"},
    ),
    VideoFormat.WEBM: replace(
        FILES[VideoFormat.WEBM],
        codec_options={
            "crf": "22", "b": "0", "row-mt": "1", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0",
        },
        muxer_options={"fflags": "+bitexact", "live": "1", "cluster_time_limit": "0", "flush_packets": "1"},
    ),
    VideoFormat.GIF: replace(FILES[VideoFormat.GIF], muxer_options={"loop": "0", "flush_packets": "1"}),
}  # fmt: skip
