"""Render a few prompts from Python, or one long stream, and lay the frames out as one picture.

python -m examples.picture_strip docs/images/sprites_strip.jpg
python -m examples.picture_strip --stream docs/images/sprites_stream.jpg
"""

import argparse
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
SCENES = (
    (0, "a red circle moves left on a blue background"),
    (20, "a white star moves right on a black background"),
    (40, "a pink heart moves up on a gray background"),
)
STREAM_S, SEED = 60, 7


def lay_out_clips(out: Path) -> str:
    """A clip of every prompt, a row each."""
    clips = [reelray.render(prompt, seed=SEED, engine="local").frames for prompt in PROMPTS]
    make_sheet(clips, PROMPTS, columns=7).convert("RGB").save(out, quality=88, optimize=True)
    return f"{len(clips)} clips of {len(clips[0])} frames"


def lay_out_stream(out: Path) -> str:
    """One stream whose prompt changes, a row for each prompt."""
    (_, first), *later = SCENES
    video = reelray.render(first, seconds=STREAM_S, seed=SEED, at=[(f"{s}s", prompt) for s, prompt in later])
    starts = [round(s * video.fps) for s, _ in SCENES]
    rows = [video.frames[a:b] for a, b in zip(starts, [*starts[1:], len(video.frames)], strict=True)]
    make_sheet(rows, [f"from {s} s: {prompt}" for s, prompt in SCENES], columns=7).convert("RGB").save(
        out, quality=88, optimize=True
    )
    return f"a stream of {len(video.frames)} frames"


def main() -> None:
    """Render with the embedded models and save the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("strip.jpg"))
    parser.add_argument("--stream", action="store_true", help="one minute whose prompt changes twice")
    options = parser.parse_args()
    made = lay_out_stream(options.out) if options.stream else lay_out_clips(options.out)
    print(f"{made} -> {options.out}")


if __name__ == "__main__":
    main()
