"""A stream written down as one plain loop over a plain memory: the oracle for whatever the engine makes of it.

It shares the noise, the solver, the prompt's encoding and the decoder with the engine, and nothing else.
"""

import torch

from reelray.proto.recipe import Commit
from reelray.workers.samplers.api import build_sampler
from reelray.workers.samplers.noise import draw_noise
from tests.support.memory_oracle import Attended, PlainMemory


def only_sink(count):
    """Attends the first `count` frames of the video and nothing else, at their places."""

    def attend(first, length):
        entries = [(frame, {frame: 1.0}) for frame in range(count)]
        return Attended(entries=entries, own=list(range(first, first + length)))

    return attend


@torch.no_grad()
def stream_plainly(model, request, rule, *, commit_timestep=0.0, recached=None):
    """Clean latents [1, C, T, H, W] of the whole video.

    Args:
        model: Loaded checkpoint.
        request: Its recipe's schedule, guidance and chunks are followed.
        rule: What chunks attend, by `tests.support.memory_oracle`.
        commit_timestep: Of the clean pass.
        recached: For the chunk before which frames are remembered anew, by its first frame: the first of these, and how
            many sink frames they attend.
    """
    facts, recipe = model.facts, request.recipe
    height, width = facts.latent_size(request.width, request.height)
    transformer, size = model.parts.transformer, recipe.chunking.latent_frames
    total = (request.frames - 1) // facts.temporal_stride + 1
    changes = [(0, request.prompt), *((change.latent_frame, change.prompt) for change in request.changes)]
    prompts = [model.encode_text([prompt, request.negative_prompt]) for _, prompt in changes]
    texts = prompts[0]
    pairs = tuple(dim // 2 for dim in transformer.config.rope_dims)
    memories = [PlainMemory(rule=rule, grid=(height // 2, width // 2), pairs=pairs) for _ in texts]
    clean = []
    for chunk, first in enumerate(range(0, total, size)):
        length = min(size, total - first)
        texts = prompts[max(n for n, (since, _) in enumerate(changes) if since <= first)]

        def noise(step, chunk=chunk, length=length):
            return draw_noise(
                seed=request.seed, chunk=chunk, step=step, channels=facts.latent_channels,
                latent_frames=length, height=height, width=width,
            )  # fmt: skip

        def predict(x, timestep, branch, *, commits, first=first, length=length, texts=texts):
            memories[branch].window, memories[branch].commits = (first, length), commits
            times = torch.full((1, length), timestep)
            return transformer(x, times, texts[branch], attention=memories[branch]).float()

        branches = range(1 if recipe.guidance.scale == 1 else 2)
        if recached is not None and first in recached:
            begin, sink = recached[first]
            before = torch.cat(clean, 2)[:, :, begin:]
            for branch in branches:
                memories[branch].rule = only_sink(sink)
                predict(before, commit_timestep, branch, commits=True, first=begin, length=first - begin)
                memories[branch].rule = rule
        sampler = build_sampler(recipe.schedule.of_chunk(chunk))
        x, last = noise(-1), len(sampler.timesteps) - 1
        for step, timestep in enumerate(sampler.timesteps):
            commits = step == last and recipe.memory.commit is Commit.LAST_STEP
            found = [predict(x, timestep, branch, commits=commits) for branch in branches]
            guided = found[0]
            if len(found) == 2:
                guided = found[1] + recipe.guidance.scale * (found[0] - found[1])
            x = sampler.step(guided, x, step, noise(step) if sampler.needs_noise and step < last else None)
        if recipe.memory.commit is Commit.CLEAN:
            for branch in branches:
                predict(x, commit_timestep, branch, commits=True)
        clean.append(x)
    return torch.cat(clean, 2)
