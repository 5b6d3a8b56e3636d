"""Render a few prompts from Python and lay their frames out as one picture.

python -m examples.picture_strip docs/images/sprites_strip.jpg
"""

import sys
from pathlib import Path

import reelray
from examples.train_sprites.sheet import make_sheet

PROMPTS = (
    "a red circle moves left on a blue background",
    "a yellow star spins on a dark purple background",
    "a white heart bounces in front of a dark green background",
    "an orange square grows on a gray background",
    "a pink cross moves in a circle on a black background",
    "a pink heart moves right and a blue triangle moves left on a purple background",
    "an orange circle bounces and a white star spins on a black background",
)


def main() -> None:
    """Render every prompt with the embedded model and save the strip."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "strip.jpg")
    clips = [reelray.render(prompt, seed=7, engine="local").frames for prompt in PROMPTS]
    make_sheet(clips, PROMPTS, columns=7).convert("RGB").save(out, quality=88, optimize=True)
    print(f"{len(clips)} clips of {len(clips[0])} frames -> {out}")


if __name__ == "__main__":
    main()
