"""Contact sheets: one clip a row, evenly spaced frames from left to right, the caption above."""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from examples.train_sprites.captions import write_caption
from examples.train_sprites.draw import draw_batch, to_uint8
from examples.train_sprites.scenes import sample_scenes
from reelray.quality.sprites.vocabulary import CLIP_FRAMES

GAP, CAPTION_HEIGHT = 4, 18
PAPER, INK = (250, 250, 250), (30, 30, 34)


def make_sheet(clips: Sequence[NDArray[np.uint8]], captions: Sequence[str], *, columns: int = 8) -> Image.Image:
    """Lay clips out as a picture.

    Args:
        clips: Frames [T, H, W, 3] uint8 each, all of one size.
        captions: One line above each clip.
        columns: Frames shown of each clip, evenly spaced, first and last among them.

    Returns:
        The picture, RGB.

    Raises:
        ValueError: The numbers of clips and captions differ, or there are none.
    """
    if not clips or len(clips) != len(captions):
        raise ValueError(f"{len(clips)} clips came with {len(captions)} captions; give one for each, at least one")
    height, width = clips[0].shape[1:3]
    row = height + CAPTION_HEIGHT + GAP
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, len(clips) * row + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for number, (clip, caption) in enumerate(zip(clips, captions, strict=True)):
        top = GAP + number * row
        pen.text((GAP, top), caption, fill=INK, font=font)
        for column, frame in enumerate(np.linspace(0, len(clip) - 1, columns).round().astype(int)):
            sheet.paste(Image.fromarray(clip[frame]), (GAP + column * (width + GAP), top + CAPTION_HEIGHT))
    return sheet


def main() -> None:
    """Draw random scenes of the world and write their sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="PNG to write")
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "held_out"), default="train")
    parser.add_argument("--start", type=int, default=0, help="first frame of the window")
    args = parser.parse_args()
    scenes = sample_scenes(args.rows, torch.Generator().manual_seed(args.seed), split=args.split)
    rng = random.Random(args.seed)
    captions = [write_caption(scenes.describe(row), rng) for row in range(args.rows)]
    shown = torch.linspace(args.start, args.start + CLIP_FRAMES - 1, args.columns).round()
    clips = list(to_uint8(draw_batch(scenes, shown)).numpy())
    make_sheet(clips, captions, columns=args.columns).save(args.output)


if __name__ == "__main__":
    main()
