"""The render written down as one plain loop: the oracle for whatever the engine interleaves.

It shares the noise and the solver with the engine, and nothing else.
"""

import torch

from reelray.workers.samplers.api import build_sampler
from reelray.workers.samplers.noise import draw_noise


def render_plainly(model, request) -> bytes:
    """RGB bytes of the whole video."""
    facts, recipe = model.facts, request.recipe
    height, width = request.height // facts.spatial_stride, request.width // facts.spatial_stride
    total = (request.frames - 1) // facts.temporal_stride + 1
    chunk_size = recipe.chunking.latent_frames or total
    prompts = [request.prompt, *(change.prompt for change in request.changes)]
    *conds, uncond = model.encode_text([*prompts, request.negative_prompt])
    state = model.new_decode_state()
    video = b""
    for chunk, first in enumerate(range(0, total, chunk_size)):
        length = min(chunk_size, total - first)
        cond = conds[sum(change.latent_frame <= first for change in request.changes)]

        def noise(step, chunk=chunk, length=length):
            return draw_noise(
                seed=request.seed, chunk=chunk, step=step, channels=facts.latent_channels,
                latent_frames=length, height=height, width=width,
            )  # fmt: skip

        sampler = build_sampler(recipe.schedule)
        x = noise(-1)
        positions = torch.arange(first, first + length)[None]
        for step, timestep in enumerate(sampler.timesteps):
            time_BT = torch.full((1, length), timestep)
            guided = model.denoise(x, time_BT, [cond], positions_BT=positions)
            if recipe.guidance.scale != 1:
                other = model.denoise(x, time_BT, [uncond], positions_BT=positions)
                guided = other + recipe.guidance.scale * (guided - other)
            x = sampler.step(guided, x, step, noise(step) if sampler.needs_noise else None)
        for t in range(length):
            video += model.decode(x[:, :, t : t + 1], state).numpy().tobytes()
    return video
