"""SkyReels-V2's diffusion forcing as one plain loop, on diffusers' own table of steps, one of its solvers a frame."""

from copy import deepcopy

import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline, UniPCMultistepScheduler
from torch import Tensor

from tests.support.joint_stream import PlainStudio
from tests.support.memory_oracle import Attended


def whole_window(first: int, length: int) -> Attended:
    """Nothing but the window, counted from 0."""
    del first
    return Attended(entries=[], own=list(range(length)))


def make_scheduler(steps: int, shift: float) -> UniPCMultistepScheduler:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler.set_timesteps(steps)
    return scheduler


def step_table(frames: int, scheduler: UniPCMultistepScheduler, *, given: int, ar_step: int, block: int):
    """Timesteps and which frames move, for each forward of a round."""
    table, _, moves, _ = SkyReelsV2DiffusionForcingPipeline.generate_timestep_matrix(
        None, frames, scheduler.timesteps, frames, ar_step, given, block
    )
    return table, moves


@torch.no_grad()
def force_plainly(
    model: object,
    request: object,
    *,
    base: int,
    overlap: int,
    ar_step: int,
    block: int,
    addnoise: float,
    overwrites: bool = False,
) -> Tensor:
    """Clean latents [1, C, T, H, W] of a long video, round after round.

    Args:
        model: Loaded checkpoint.
        request: Its steps, shift, guidance and chunks are followed; the noise of a frame is that of its chunk.
        base: Latent frames of a round.
        overlap: Of them those that the round before has made.
        ar_step: Steps that a block is ahead of the next one.
        block: Latent frames of a block.
        addnoise: Timestep of the frames of the round before.
        overwrites: Let the latents that a solver keeps of its first step be written over, as the published loop does:
            the second step is then corrected from where it was, not from where it began.
    """
    studio, recipe = PlainStudio(model=model, request=request), request.recipe
    size, memory = recipe.chunking.latent_frames, studio.memory(whole_window)

    def noise(first, end, step):
        chunks = range(first // size, -(-end // size))
        drawn = [studio.noise(chunk, step, min(size, studio.total - chunk * size)) for chunk in chunks]
        return torch.cat(drawn, 2)[:, :, first - chunks[0] * size :][:, :, : end - first]

    def predict(x, times, texts):
        memory.window = (0, x.shape[2])
        found = [studio.transformer(x, times, text, attention=memory).float() for text in texts]
        return found[1] + recipe.guidance.scale * (found[0] - found[1])

    done = torch.empty(1, model.facts.latent_channels, 0, studio.height, studio.width)
    while done.shape[2] < studio.total:
        given = overlap if done.shape[2] else 0
        begin = done.shape[2] - given
        end = min(studio.total, begin + base)
        x = torch.cat([done[:, :, begin:], noise(done.shape[2], end, -1)], 2)
        scheduler = make_scheduler(recipe.schedule.steps, recipe.schedule.shift)
        solvers = [deepcopy(scheduler) for _ in range(end - begin)]
        texts = studio.text_from(done.shape[2])
        table, moves = step_table(end - begin, scheduler, given=given, ar_step=ar_step, block=block)
        for turn, (row, moving) in enumerate(zip(table, moves, strict=True)):
            shown, times = x.clone(), row[None].float()
            if given:
                past = noise(begin, begin + given, (1 << 20) + turn)
                shown[:, :, :given] = x[:, :, :given] * (1 - addnoise / 1000) + past * (addnoise / 1000)
                times[:, :given] = addnoise
            prediction = predict(shown, times, texts)
            for frame in range(end - begin):
                if moving[frame]:
                    here = slice(frame, frame + 1)
                    # A copy: the solver keeps what it is given, and the published loop writes over that.
                    now = x[:, :, here] if overwrites else x[:, :, here].clone()
                    moved = solvers[frame].step(prediction[:, :, here], row[frame], now, return_dict=False)
                    x[:, :, here] = moved[0]
        done = torch.cat([done, x[:, :, given:]], 2)
    return done
