"""Frames with which a memory begins anew: evaluated once more, by themselves.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reelray.proto.recipe import Recipe
from reelray.workers.engine.stream_memory import StreamMemory
from reelray.workers.engine.window_input import WindowInput
from reelray.workers.samplers.guidance import Branch


def find_anew(recipe: Recipe, end: int) -> tuple[int, ...]:
    """Latent frames with which memory begins anew before the chunk that begins at `end`; none where it goes on."""
    rule, chunk = recipe.memory, recipe.chunking.latent_frames
    if rule is None or chunk is None or not rule.begins_anew(end):
        return ()
    return rule.frames_anew(end, chunk)


def cut_anew(recipe: Recipe, frames: Sequence[int]) -> list[Sequence[int]]:
    """Frames that attend each other, block by block."""
    rule = recipe.memory
    assert rule is not None
    size = rule.causal_frames or recipe.chunking.latent_frames or len(frames)
    return [frames[begin : begin + size] for begin in range(0, len(frames), size)]


def evaluate_anew(  # noqa: PLR0917  (all six are what the call is about)
    predict: Callable[[Branch, WindowInput], Tensor],
    memory: StreamMemory,
    recipe: Recipe,
    latents_1CTHW: Tensor,
    timestep: float,
    frames: Sequence[int],
) -> Callable[[Branch], Tensor]:
    """What evaluates a branch on clean frames and remembers them.

    Block after block, each over memory of those before it, they are what one forward with a causal mask would be.

    Args:
        predict: Evaluates a window.
        memory: Has forgotten all else.
        recipe: Says how many frames are a block.
        latents_1CTHW: Of the frames.
        timestep: Of all of them.
        frames: Their numbers in the video.
    """

    def evaluate(branch: Branch) -> Tensor:
        found: list[Tensor] = []
        for block in cut_anew(recipe, frames):
            begin = sum(part_1CTHW.shape[2] for part_1CTHW in found)
            block_1CTHW, timesteps = latents_1CTHW[:, :, begin : begin + len(block)], (timestep,) * len(block)
            window = WindowInput(latents_1CTHW=block_1CTHW, timesteps=timesteps, first=block[0], records=True)
            found.append(predict(branch, window))
            memory.commit_again(branch, block)
        return torch.cat(found, 2)

    return evaluate
