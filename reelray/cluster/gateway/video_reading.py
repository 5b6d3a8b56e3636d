"""From a request on the wire to the options that the command line and Python take."""

import io

from PIL import Image, UnidentifiedImageError

from reelray.cluster.first_frame import MAX_PIXELS
from reelray.cluster.prompt_changes import Times
from reelray.cluster.render import RenderOptions
from reelray.proto.errors import InputError, UnsupportedError
from reelray.proto.v1 import videos_pb2 as wire

DECODERS = {wire.DECODER_FULL: None, wire.DECODER_PREVIEW: "preview"}


def read_video(video: wire.VideoSpec, model: str) -> RenderOptions:
    """Read what a client asks for.

    Args:
        video: From the wire.
        model: Name of the model that is to make it, for errors.

    Raises:
        InputError: A value is none that this version knows, or a picture cannot be read.
        UnsupportedError: It names a condition that nothing here takes.
    """
    if video.decoder not in DECODERS:
        raise InputError(f"decoder is {video.decoder}; it must be one of {', '.join(wire.Decoder.keys())}")
    return RenderOptions(
        prompt=video.prompt,
        negative=video.negative_prompt if video.HasField("negative_prompt") else None,
        frames=video.frames if video.WhichOneof("length") == "frames" else None,
        seconds=video.seconds if video.WhichOneof("length") == "seconds" else None,
        size=(video.size.width, video.size.height) if video.HasField("size") else None,
        seed=video.seed if video.HasField("seed") else None,
        steps=video.steps if video.HasField("steps") else None,
        guidance=video.guidance if video.HasField("guidance") else None,
        fps=video.fps if video.HasField("fps") else None,
        at=read_changes(video),
        decoder=DECODERS[video.decoder],
        image=read_first_frame(video, model),
    )


def read_changes(video: wire.VideoSpec) -> Times | None:
    """Prompts that follow the first."""
    changes = [(f"{change.seconds}{',cut' if change.cut else ''}", change.prompt) for change in video.changes]
    return changes or None


def read_first_frame(video: wire.VideoSpec, model: str) -> Image.Image | None:
    """The picture with which the video begins.

    Raises:
        InputError: Two of them, none inside, or not a picture.
        UnsupportedError: A condition of another kind.
    """
    for condition in video.conditions:
        if condition.kind != wire.Condition.FIRST_FRAME:
            kind = _name_of(condition.kind)
            raise UnsupportedError(f"model '{model}' takes no condition {kind}; it takes FIRST_FRAME at most")
    if len(video.conditions) > 1:
        raise InputError(f"{len(video.conditions)} conditions are FIRST_FRAME; a video begins with one picture")
    return read_picture(video.conditions[0].inline) if video.conditions else None


def read_picture(data: bytes) -> Image.Image:
    """Decode a picture that came over the network.

    Raises:
        InputError: It is none, or absurdly large.
    """
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise InputError(f"the picture has {image.width}x{image.height} pixels; at most {MAX_PIXELS} are read")
        image.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise InputError(f"condition FIRST_FRAME holds {len(data)} bytes that are no picture (PNG, JPEG, …)") from None
    return image


def _name_of(kind: int) -> str:
    known = kind in wire.Condition.Kind.values()
    return wire.Condition.Kind.Name(kind) if known else f"of kind {kind}"
