"""Facts that travel in a file, written anew once more is known: prompts that were said while it was made."""

import secrets
from pathlib import Path
from typing import Any

from reelray.cluster.video_encodings import FILES
from reelray.cluster.video_format import VideoFormat
from reelray.cluster.video_writer import VideoSpec


def write_tags(path: Path, video_format: VideoFormat, spec: VideoSpec) -> None:
    """Give a complete file or folder the facts of `spec`; its frames stay as they are, bit by bit.

    Args:
        path: What was written.
        video_format: As what; GIF and raw frames hold no facts.
        spec: Its `metadata` counts.

    Raises:
        OSError: It cannot be written; `path` may be left without its facts, and is then not to be kept.
    """
    if video_format is VideoFormat.PNG_DIR:
        from reelray.cluster.video_writer_png import write_facts  # noqa: PLC0415

        write_facts(path, spec)
    elif video_format in {VideoFormat.MP4, VideoFormat.WEBM}:
        beside = path.with_name(f".reelray-{secrets.token_hex(6)}.part")
        try:
            _copy_packets(path, beside, video_format, spec)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def _copy_packets(source: Path, target: Path, video_format: VideoFormat, spec: VideoSpec) -> None:
    import av  # noqa: PLC0415  folders do not need it

    from reelray.cluster.video_writer_av import container_metadata  # noqa: PLC0415

    encoding = FILES[video_format]
    options = dict(encoding.muxer_options)
    with (
        av.open(str(source.absolute())) as old,
        av.open(str(target.absolute()), "w", format=encoding.container, options=options) as new,
    ):
        new.metadata.update(container_metadata(spec))
        stream: Any = new.add_stream_from_template(old.streams.video[0])
        stream.codec_context.framerate = spec.fps  # which the template leaves out
        for packet in old.demux(video=0):
            if packet.dts is not None:  # the last one is a mark of the end
                packet.stream = stream
                new.mux(packet)
