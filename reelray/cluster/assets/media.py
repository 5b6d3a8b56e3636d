"""What files are, by their bytes; what their names or their senders say is not believed."""

import json
import struct
from typing import BinaryIO

from PIL import Image

from reelray.proto.errors import MediaError

HEAD_BYTES = 16
PICTURES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
"""What a caller's picture may be; other decoders of Pillow start programs, or are seldom tested."""
MOST_PICTURE_PIXELS = 33_000_000
LARGEST_PICTURE_BYTES = 32_000_000
TENSORS = "application/safetensors"
LARGEST_TENSOR_HEAD = 1 << 20
KEPT = "PNG, JPEG, WebP, MP4, WebM, WAV, FLAC, Ogg, MP3, safetensors"
_BEGINNINGS = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (8, b"WEBP", "image/webp"),
    (8, b"WAVE", "audio/wav"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
)


def recognise(head: bytes) -> str:
    """The media type of a file.

    Args:
        head: Its first 16 bytes, or all of a shorter one.

    Raises:
        MediaError: It is none of those that are kept.
    """
    for place, beginning, media_type in _BEGINNINGS:
        is_riff = place == 8
        if head[place : place + len(beginning)] == beginning and (not is_riff or head[:4] == b"RIFF"):
            return media_type
    if len(head) >= 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2:  # a frame of MPEG audio, layer III
        return "audio/mpeg"
    if len(head) > 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= LARGEST_TENSOR_HEAD:
        return TENSORS
    raise MediaError(f"the file is none of those that are kept: {KEPT}")


def check_said(said: str, found: str) -> None:
    """Refuse a file that is not what its sender says.

    Raises:
        MediaError: It is something else.
    """
    plain = said.partition(";")[0].strip().lower()
    if plain and plain != found:
        raise MediaError(f"the file is said to be {said[:60]!r}, and is {found}")


def check_whole(media_type: str, file: BinaryIO, size_bytes: int) -> None:
    """Look at a whole file: pictures are decoded, the heads of tensors read; of sound and videos the beginning counts.

    Raises:
        MediaError: It is damaged, or would fill the memory.
    """
    if media_type in PICTURES:
        _check_picture(PICTURES[media_type], file, size_bytes)
    elif media_type == TENSORS:
        _check_tensors(file, size_bytes)


def open_picture(file: BinaryIO, formats: tuple[str, ...] = tuple(PICTURES.values())) -> Image.Image:
    """Decode a picture that came over the network.

    Raises:
        MediaError: It is none, or absurdly large.
    """
    try:
        image = Image.open(file, formats=formats)
        width, height = image.size
        if width * height <= MOST_PICTURE_PIXELS:
            image.load()
            return image
    except Exception:  # noqa: BLE001  whatever a decoder makes of strangers' bytes
        raise MediaError("the file is no picture that can be decoded (PNG, JPEG or WebP)") from None
    raise MediaError(f"the picture has {width}x{height} pixels; at most {MOST_PICTURE_PIXELS} are read")


def _check_picture(form: str, file: BinaryIO, size_bytes: int) -> None:
    if size_bytes > LARGEST_PICTURE_BYTES:
        raise MediaError(f"the picture has {size_bytes} bytes; at most {LARGEST_PICTURE_BYTES} are read")
    open_picture(file, (form,)).close()


def _check_tensors(file: BinaryIO, size_bytes: int) -> None:
    """Refuse a file whose tensors do not lie one after the other up to its end."""
    length = struct.unpack("<Q", file.read(8))[0]
    try:
        head = json.loads(file.read(length))
        places = sorted(tuple(one["data_offsets"]) for name, one in head.items() if name != "__metadata__")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise MediaError("the head of the safetensors file is none") from None
    at = 0
    for place in places:
        if len(place) != 2 or not all(isinstance(end, int) for end in place) or place[0] != at or place[1] < at:
            raise MediaError("the tensors of the safetensors file do not lie one after the other")
        at = place[1]
    if 8 + length + at != size_bytes:
        raise MediaError(f"the safetensors file has {size_bytes} bytes; its head speaks of {8 + length + at}")
