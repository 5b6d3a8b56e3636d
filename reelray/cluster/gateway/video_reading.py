"""From a request on the wire to the options that the command line and Python take."""

import io

from PIL import Image

from reelray.cluster.assets.media import open_picture
from reelray.cluster.decoder_choice import DECODERS as DECODERS_BY_WORD
from reelray.cluster.model_catalog import ModelEntry
from reelray.cluster.prompt_changes import Times
from reelray.cluster.render import RenderOptions
from reelray.cluster.wire import LARGEST_PICTURE
from reelray.proto.errors import InputError, MediaError, SizeError, UnsupportedError
from reelray.proto.v1 import video_spec_pb2 as wire

LONGEST_SIDE = 8192
MOST_PIXELS = 17_000_000
"""Of a frame; H.264 and the memory of a server end about there."""
LONGEST_S = 86_400
LONGEST_FRAMES = 240 * LONGEST_S
DECODERS = {wire.DECODER_UNSPECIFIED: None, wire.DECODER_FULL: "full", wire.DECODER_PREVIEW: "preview"}


def read_video(video: wire.VideoSpec, model: ModelEntry) -> RenderOptions:
    """Read what a client asks for.

    Args:
        video: From the wire.
        model: What is to make it.

    Raises:
        InputError: A value is none that this version knows, or a picture cannot be read.
        SizeError: It is larger than a server takes on.
        UnsupportedError: It names a condition that the model does not take.
    """
    width, height = video.size.width, video.size.height
    if max(width, height) > LONGEST_SIDE or width * height > MOST_PIXELS:
        raise SizeError(f"size {width}x{height} is more than a server takes: sides to {LONGEST_SIDE}, 4096x4096 in all")
    if video.decoder not in DECODERS:
        raise InputError(f"decoder is {video.decoder}; it must be one of {', '.join(wire.Decoder.keys())}")
    check_decoder(DECODERS[video.decoder], model)
    if video.seconds > LONGEST_S or video.frames > LONGEST_FRAMES:
        raise SizeError(f"a server makes at most a day of video: {LONGEST_S} s, {LONGEST_FRAMES} frames")
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
        sparsity=video.sparsity or None,
        image=read_first_frame(video),
    )


def check_decoder(word: str | None, model: ModelEntry) -> None:
    """Refuse pictures that the model cannot make here; whoever calls need not know where its files lie.

    Raises:
        UnsupportedError: It has no such decoder.
    """
    decoder = model.recipe.decoder if word is None else DECODERS_BY_WORD[word]
    if decoder not in model.facts.decoders:
        raise UnsupportedError(f"model '{model.name}' makes no previews on this server; take DECODER_FULL")


def read_changes(video: wire.VideoSpec) -> Times | None:
    """Prompts that follow the first."""
    changes = [(f"{change.seconds}{',cut' if change.cut else ''}", change.prompt) for change in video.changes]
    return changes or None


def check_conditions(video: wire.VideoSpec, model: ModelEntry) -> None:
    """Refuse conditions that the model does not take, before their bytes are looked for.

    Raises:
        InputError: Two pictures to begin with, or one that is too large for a request.
        UnsupportedError: A condition of another kind.
    """
    taken = {wire.Condition.FIRST_FRAME} if model.recipe.task == "i2v" else set()
    for condition in video.conditions:
        if condition.kind not in taken:
            told = "FIRST_FRAME only" if taken else "none"
            raise UnsupportedError(
                f"model '{model.name}' takes no condition {_name_of(condition.kind)}; it takes {told}"
            )
        if len(condition.inline) > LARGEST_PICTURE:
            raise InputError(
                f"condition FIRST_FRAME holds {len(condition.inline)} bytes; at most {LARGEST_PICTURE} are taken with "
                "a request: upload it as an asset"
            )
    if len(video.conditions) > 1:
        raise InputError(f"{len(video.conditions)} conditions are FIRST_FRAME; a video begins with one picture")


def read_first_frame(video: wire.VideoSpec) -> Image.Image | None:
    """The picture with which the video begins, of conditions that are checked.

    Raises:
        InputError: None inside, or not a picture.
        UnsupportedError: It lies elsewhere, and this call does not bring it.
    """
    if not video.conditions:
        return None
    condition = video.conditions[0]
    if condition.WhichOneof("source") in {"asset_id", "url"}:
        raise UnsupportedError("this call takes conditions with their bytes inside only")
    try:
        return open_picture(io.BytesIO(condition.inline))
    except MediaError as error:
        raise InputError(f"condition FIRST_FRAME, of {len(condition.inline)} bytes: {error.message}") from None


def _name_of(kind: int) -> str:
    known = kind in wire.Condition.Kind.values()
    return wire.Condition.Kind.Name(kind) if known else f"of kind {kind}"
