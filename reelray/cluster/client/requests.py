"""From the options of a render to a request on the wire."""

import io
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from reelray.cluster.client.deadlines import on_the_wire
from reelray.cluster.decoder_choice import DECODERS
from reelray.cluster.first_frame import Picture, load_picture
from reelray.cluster.prompt_changes import read_cut, read_seconds
from reelray.cluster.render import RenderOptions, parse_size
from reelray.cluster.wire import LARGEST_MESSAGE, LARGEST_PICTURE
from reelray.proto.errors import InputError, PromptError
from reelray.proto.sparsity_text import parse_sparsity, write_sparsity
from reelray.proto.v1 import converse_pb2, videos_pb2
from reelray.proto.v1 import video_spec_pb2 as wire

ASSET = "asset:"
KEEP_S, LONGEST_KEEP_S = 30, 300
WIRE_DECODERS = {None: wire.DECODER_UNSPECIFIED, "full": wire.DECODER_FULL, "preview": wire.DECODER_PREVIEW}


def write_request(
    options: RenderOptions, model: str | None, media: wire.Media, deadline: datetime | None = None
) -> videos_pb2.GenerateRequest:
    """Put a wish for a video that the caller waits for on the wire; raises as `write_video` does."""
    request = videos_pb2.GenerateRequest(video=write_video(options, model), media=media)
    if deadline is not None:
        request.options.deadline.CopyFrom(on_the_wire(deadline))
    check_bytes(request.ByteSize())
    return request


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionWish:
    """How a session is held, besides what it shows.

    Args:
        model: Name of a served model; None takes the server's first.
        settled: Its length is final, and not rounded.
        keep_s: Seconds for which the server keeps it when the line breaks.
        deadline: When it is to have begun; None has no such time.
    """

    model: str | None = None
    settled: bool = False
    keep_s: int = KEEP_S
    deadline: datetime | None = None

    def __post_init__(self) -> None:
        if type(self.keep_s) is not int or not 1 <= self.keep_s <= LONGEST_KEEP_S:
            raise InputError(
                f"keep_s is {self.keep_s!r}; it must be a whole number of seconds from 1 to {LONGEST_KEEP_S}"
            )


def write_start(options: RenderOptions, wish: SessionWish) -> converse_pb2.ConverseRequest:
    """Put a wish for a session on the wire, whose frames come as they are; raises as `write_video` does."""
    start = converse_pb2.ConverseRequest.Start(
        video=write_video(options, wish.model), media=wire.MEDIA_RGB24, settled=wish.settled, keep_s=wish.keep_s
    )
    if options.pace is not None:
        start.pace_fps = float(options.pace)
    if wish.deadline is not None:
        start.options.deadline.CopyFrom(on_the_wire(wish.deadline))
    request = converse_pb2.ConverseRequest(start=start)
    check_bytes(request.ByteSize())
    return request


def write_video(options: RenderOptions, model: str | None) -> wire.VideoSpec:
    """Put options on the wire.

    Raises:
        InputError: A value is none that the wire can carry; most others are the server's to judge.
    """
    if options.decoder is not None and options.decoder not in DECODERS:
        raise InputError(f"decoder is {options.decoder!r}; it must be one of {', '.join(DECODERS)}")
    if options.frames is not None and options.seconds is not None:
        raise InputError("both frames and seconds were given; give one of them")
    check_unicode(options.prompt, options.negative, *(prompt for _, prompt in options.at or ()))
    video = wire.VideoSpec(
        model=model or "",
        prompt=options.prompt,
        changes=[_write_change(time, prompt) for time, prompt in options.at or ()],
        decoder=WIRE_DECODERS[options.decoder],
        sparsity=write_sparsity(parse_sparsity(options.sparsity)) if options.sparsity else "",
    )
    _write_numbers(video, options)
    if options.negative is not None:
        video.negative_prompt = options.negative
    if options.image is not None:
        video.conditions.append(_write_condition(options.image))
    return video


def check_bytes(count: int) -> None:
    """Refuse a request that is too long to be sent.

    Raises:
        InputError: It is.
    """
    if count > LARGEST_MESSAGE:
        raise InputError(f"the request takes {count} bytes; at most {LARGEST_MESSAGE} are sent: shorten it")


def check_unicode(*texts: str | None) -> None:
    """Refuse texts that are none.

    Raises:
        PromptError: One holds half of a character.
    """
    for text in texts:
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            raise PromptError("a prompt is not valid UTF-8 text") from None


def _write_change(marked: str | float, prompt: str) -> wire.PromptChange:
    time, cut = read_cut(marked)
    return wire.PromptChange(seconds=float(read_seconds(time)), prompt=prompt, cut=cut)


def _write_numbers(video: wire.VideoSpec, options: RenderOptions) -> None:
    if options.seconds is not None:
        video.seconds = float(read_seconds(options.seconds, "seconds"))
    if options.size is not None:
        width, height = parse_size(options.size) if isinstance(options.size, str) else options.size
        _set_whole(video.size, "width", int(width))
        _set_whole(video.size, "height", int(height))
    for name in ("frames", "seed", "steps"):
        if (value := getattr(options, name)) is not None:
            _set_whole(video, name, int(value))
    for name in ("guidance", "fps"):
        if (value := getattr(options, name)) is not None:
            setattr(video, name, float(value))


def _set_whole(message: wire.VideoSpec | wire.Size, name: str, value: int) -> None:
    try:
        setattr(message, name, value)
    except ValueError:
        raise InputError(f"{name} is {value}; it must be a whole number from 0 on, and not that large") from None


def _write_condition(picture: Picture) -> wire.Condition:
    """A picture that the video begins with: ``asset:ID``, an address for the server, or one that is here."""
    condition = wire.Condition(kind=wire.Condition.FIRST_FRAME)
    said = picture if isinstance(picture, str) else ""
    if said.startswith(ASSET):
        condition.asset_id = said.removeprefix(ASSET)
    elif said.startswith(("https://", "http://")):
        condition.url = said
    else:
        condition.inline = _write_picture(picture)
    return condition


def _write_picture(picture: Picture) -> bytes:
    """A picture as the file that it is, or as PNG.

    Raises:
        InputError: It cannot be read, or is too large to be sent with a request.
    """
    image = load_picture(picture)
    data = Path(picture).expanduser().read_bytes() if isinstance(picture, str | Path) else b""
    if not data or len(data) > LARGEST_PICTURE:
        kept = io.BytesIO()
        image.save(kept, format="PNG")
        data = kept.getvalue()
    if len(data) > LARGEST_PICTURE:
        raise InputError(
            f"the image takes {len(data)} bytes; a request carries at most {LARGEST_PICTURE}: make it smaller, or "
            "upload it first (reelray upload) and name it as asset:ID"
        )
    return data
