"""The renders that `benchmarks.parity` compares: chosen ones, and some that are drawn at random."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reelray.proto.recipe import Guidance, Schedule, Solver
from reelray.workers.recipes.manifest import read_manifest

SPRITES = Path("reelray/checkpoints/sprites")
PROMPT = "a red circle moves left on a blue background"


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A render to compare.

    Args:
        what: Its name in the report.
        width: Pixels.
        height: Pixels.
        frames: Pixel frames.
        schedule: Noise levels.
        guidance: Classifier-free guidance; the first step's weight is above 1.
        prompt: What to show.
        seed: Of the noise.
        steep: Report beside it by how much rounding alone moves the result.
    """

    what: str
    width: int = 112
    height: int = 80
    frames: int = 17
    schedule: Schedule
    guidance: Guidance
    prompt: str = PROMPT
    seed: int = 7
    steep: bool = False


def clips(*, quick: bool) -> Sequence[Clip]:
    """The renders: both multistep solvers, each form of guidance, an odd size, the defaults at full length."""
    unipc, dpmpp = Schedule(steps=6, shift=3.0), Schedule(solver=Solver.DPMPP, steps=6, shift=5.0)
    weights = (5.0, 4.0, 1.0, 3.0, 1.0, 2.0)
    short = [
        Clip(what="clip, UniPC, guidance 4", schedule=unipc, guidance=Guidance(scale=4.0)),
        Clip(what="clip, DPM++, guidance 4", schedule=replace(dpmpp, shift=3.0), guidance=Guidance(scale=4.0)),
        Clip(what="clip, DPM++, guidance 6, shift 5", schedule=dpmpp, guidance=Guidance(scale=6.0), steep=True),
        Clip(what="clip, UniPC, a weight per step", schedule=unipc, guidance=Guidance(per_step=weights)),
        Clip(
            what="clip, UniPC, guidance for sigma in [0.7, 1]",
            schedule=unipc,
            guidance=Guidance(scale=4.0, interval=(0.7, 1.0)),
        ),
        Clip(what="clip, UniPC, 1 step, 1 frame", schedule=replace(unipc, steps=1), frames=1, guidance=Guidance()),
    ]
    short += draw_clips()
    if quick:
        return short
    recipe = read_manifest(SPRITES / "manifest.yaml")
    full = Clip(
        what="clip, the manifest's defaults, 192x128, 81 frames",
        width=recipe.defaults.width,
        height=recipe.defaults.height,
        frames=recipe.defaults.frames,
        schedule=recipe.schedule,
        guidance=recipe.guidance,
    )
    return [*short, full]


def draw_clips(count: int = 12) -> list[Clip]:
    """Clips of settings, prompts and seeds drawn at random: what somebody else might compare."""
    draw = random.Random(2)
    found = []
    for number in range(count):
        solver, shift = draw.choice((Solver.UNIPC, Solver.DPMPP)), draw.choice((1.0, 3.0, 5.0, 8.0, 12.0))
        schedule = Schedule(solver=solver, steps=draw.choice((4, 6, 8, 10)), shift=shift)
        scale, (width, height) = draw.choice((1.0, 2.0, 4.0, 6.0, 8.0)), draw.choice(((112, 80), (96, 128), (192, 128)))
        colour, shape = draw.choice(("red", "green", "yellow", "white")), draw.choice(("circle", "square", "star"))
        prompt = f"a {colour} {shape} {draw.choice(('moves up', 'bounces', 'spins', 'grows'))} on a blue background"
        seed = draw.randrange(1 << 32)
        what = f"clip, drawn {number}: {solver.upper()}, {schedule.steps} steps, shift {shift:g}, guidance {scale:g}"
        found.append(
            Clip(
                what=f"{what}, {width}x{height}",
                width=width,
                height=height,
                schedule=schedule,
                guidance=Guidance(scale=scale),
                prompt=prompt,
                seed=seed,
            )
        )
    return found
