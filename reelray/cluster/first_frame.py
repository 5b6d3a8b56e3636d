"""The first frame of an image-to-video request: read, turned upright, and fitted to the video's size."""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from reelray.cluster.video_writer import FramesArray
from reelray.proto.errors import InputError
from reelray.proto.model_facts import ModelFacts

Picture = str | Path | Image.Image | FramesArray
"""A file, a PIL image, or uint8 RGB of shape (H, W, 3)."""

MAX_PIXELS = 200_000_000
"""A larger picture is more likely a mistake or a decompression bomb than a first frame."""


def load_picture(picture: Picture) -> Image.Image:
    """Read a picture as upright RGB; transparent parts become black.

    Raises:
        InputError: Missing, unreadable, not an image, or absurdly large.
    """
    if isinstance(picture, str | Path):
        return _load_file(Path(picture).expanduser())
    if isinstance(picture, Image.Image):
        return _to_rgb(picture)
    if not isinstance(picture, np.ndarray):
        raise InputError(f"image is {type(picture).__name__}; give a file, a PIL image, or uint8 RGB (H, W, 3)")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise InputError(f"image is {picture.dtype} of shape {picture.shape}; give uint8 RGB of shape (H, W, 3)")
    return Image.fromarray(picture)


def fit_picture(image: Image.Image, width: int, height: int) -> bytes:
    """Scale to cover the video's size and cut the middle out.

    Returns:
        RGB bytes, shape (height, width, 3), uint8.
    """
    return ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS).tobytes()


def size_for_picture(picture_size: tuple[int, int], area: int, facts: ModelFacts) -> tuple[int, int]:
    """A valid video size in the picture's shape, with about `area` pixels.

    Args:
        picture_size: Width and height of the picture.
        area: Pixels the model likes.
        facts: Geometry of the model.
    """
    step_width, step_height = facts.spatial_stride * facts.patch[2], facts.spatial_stride * facts.patch[1]
    shape = picture_size[0] / picture_size[1]
    return (
        max(1, round(math.sqrt(area * shape) / step_width)) * step_width,
        max(1, round(math.sqrt(area / shape) / step_height)) * step_height,
    )


def _load_file(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(
                    f"image '{path}' is {image.width}x{image.height}; at most {MAX_PIXELS} pixels are read"
                )
            return _to_rgb(image)
    except UnidentifiedImageError:
        raise InputError(f"image '{path}' is not an image that Pillow can read; give a PNG or JPEG file") from None
    except FileNotFoundError:
        raise InputError(f"image '{path}' does not exist") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow reports truncated and broken files with any of these.
        raise InputError(f"image '{path}' cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, (0, 0, 0, 255)), upright)
    return upright.convert("RGB")
