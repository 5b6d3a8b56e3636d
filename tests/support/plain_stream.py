"""A stream written down as one plain loop over a plain memory: the oracle for whatever the engine makes of it.

It shares the noise, the solver, the prompt's encoding and the decoder with the engine, and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from reelray.proto.memory_rule import Commit
from reelray.workers.samplers.api import build_sampler
from reelray.workers.samplers.noise import draw_noise
from tests.support.memory_oracle import Attended, PlainMemory


@dataclass(kw_only=True)
class Special:
    """What few recipes do, by first latent frame of the chunk that follows or does it.

    Args:
        memory: Makes the memory of a branch.
        mixes: Weights of the prompts in the text.
        jumps: Position of the chunk's first frame.
        anew: All is forgotten: frames with which memory begins anew, and how many of them are a causal block.
        coded: Whether the first of these is its last picture encoded anew, unless it is the video's first.
    """

    memory: Callable[..., PlainMemory] = PlainMemory
    mixes: dict[int, tuple[float, ...]] = field(default_factory=dict)
    jumps: dict[int, int] = field(default_factory=dict)
    anew: dict[int, tuple[tuple[int, ...], int]] = field(default_factory=dict)
    coded: bool = False


def prepare_slots(model, words, *, merge=False):
    """Context of texts, added up by weight as embeddings; of all text slots, if none are merged."""
    rows = [weight * model.parts.text_encoder.encode([text])[0].double() for text, weight in words]
    return model.parts.transformer.prepare_text(sum(rows).float()[None], merge_padding=merge)


def only_sink(count):
    """Attends the first `count` frames of the video and nothing else, at their places."""

    def attend(first, length):
        entries = [(frame, {frame: 1.0}) for frame in range(count)]
        return Attended(entries=entries, own=list(range(first, first + length)))

    return attend


@torch.no_grad()
def stream_plainly(model, request, rule, *, commit_timestep=0.0, recached=None, special=None):
    """Clean latents [1, C, T, H, W] of the whole video.

    Args:
        model: Loaded checkpoint.
        request: Its recipe's schedule, guidance and chunks are followed.
        rule: What chunks attend, by `tests.support.memory_oracle`.
        commit_timestep: Of the clean pass.
        recached: For the chunk before which frames are remembered anew, by its first frame: the first of these, and how
            many sink frames they attend.
        special: What few recipes do; nothing by default.
    """
    stream = PlainStream(model, request, rule, commit_timestep, special or Special())
    facts, recipe = model.facts, request.recipe
    height, width = facts.latent_size(request.width, request.height)
    size, total = recipe.chunking.latent_frames, (request.frames - 1) // facts.temporal_stride + 1
    for chunk, first in enumerate(range(0, total, size)):
        length = min(size, total - first)

        def noise(step, chunk=chunk, length=length):
            return draw_noise(
                seed=request.seed, chunk=chunk, step=step, channels=facts.latent_channels,
                latent_frames=length, height=height, width=width,
            )  # fmt: skip

        stream.read(first)
        if recached is not None and first in recached:
            stream.recache(first, *recached[first])
        stream.prepare(first)
        sampler, window = build_sampler(recipe.schedule.of_chunk(chunk)), (first, length)
        x, last = noise(-1), len(sampler.timesteps) - 1
        for step, timestep in enumerate(sampler.timesteps):
            commits = step == last and recipe.memory.commit is Commit.LAST_STEP
            found = [stream.predict(x, timestep, branch, window, commits=commits) for branch in stream.branches]
            guided = found[0]
            if len(found) == 2:
                guided = found[1] + recipe.guidance.scale * (found[0] - found[1])
            x = sampler.step(guided, x, step, noise(step) if sampler.needs_noise and step < last else None)
        if recipe.memory.commit is Commit.CLEAN:
            for branch in stream.branches:
                stream.predict(x, commit_timestep, branch, window, commits=True)
        stream.clean.append(x)
    return torch.cat(stream.clean, 2)


class PlainStream:
    """What the loop has at hand: texts, memories, and clean chunks."""

    def __init__(self, model, request, rule, commit_timestep, special):
        self.model, self.rule, self.commit_timestep, self.special = model, rule, commit_timestep, special
        self.changes = [(0, request.prompt), *((change.latent_frame, change.prompt) for change in request.changes)]
        self.negative = request.negative_prompt
        self.branches = range(1 if request.recipe.guidance.scale == 1 else 2)
        height, width = model.facts.latent_size(request.width, request.height)
        pairs = tuple(dim // 2 for dim in model.parts.transformer.config.rope_dims)
        self.memories = [special.memory(rule=rule, grid=(height // 2, width // 2), pairs=pairs) for _ in self.branches]
        self.clean, self.texts, self.keys = [], [], []

    def read(self, first):
        """Go by the text of the chunk that begins at `first`."""
        words = [(text, 1.0) for since, text in self.changes if since <= first][-1:]
        if first in self.special.mixes:
            words = [(text, w) for (_, text), w in zip(self.changes, self.special.mixes[first], strict=False)]
        both = [words, [(self.negative, 1.0)]]
        self.texts = [prepare_slots(self.model, words, merge=True) for words in both]
        self.keys = [[k_1KND[0] for k_1KND in prepare_slots(self.model, words).keys] for words in both]

    def predict(self, x, timestep, branch, window, *, commits):
        """Evaluate once."""
        memory = self.memories[branch]
        memory.window, memory.commits, memory.jump = window, commits, self.special.jumps.get(window[0])
        times = torch.full((1, x.shape[2]), timestep)
        return self.model.parts.transformer(x, times, self.texts[branch], attention=memory).float()

    def recache(self, first, begin, sink):
        """Remember the frames from `begin` to `first` anew."""
        before = torch.cat(self.clean, 2)[:, :, begin:]
        for branch in self.branches:
            memory = self.memories[branch]
            memory.prepare(first, self.keys[branch], recaches=True)
            memory.rule = only_sink(sink)
            self.predict(before, self.commit_timestep, branch, (begin, first - begin), commits=True)
            memory.rule = self.rule

    def prepare(self, first):
        """Whatever comes before the first step."""
        for branch in self.branches:
            self.memories[branch].prepare(first, self.keys[branch])
        if first not in self.special.anew:
            return
        frames, block = self.special.anew[first]
        before = torch.cat(self.clean, 2)[:, :, list(frames)]
        if self.special.coded and frames[0] > 0:
            before[:, :, :1] = self.code(frames[0])
        for branch in self.branches:
            memory = self.memories[branch]
            memory.kept.clear()
            memory.block, memory.names = block, frames
            self.predict(before, self.commit_timestep, branch, (-1, len(frames)), commits=True)
            memory.block = None

    def code(self, frame):
        """The last picture of a latent frame as a video of its own, by the whole-clip forms of the VAE."""
        vae = self.model.parts.vae
        pixels = vae.decode_whole(vae.denormalise(torch.cat(self.clean, 2)))
        picture = pixels[:, :, 4 * frame : 4 * frame + 1]
        return vae.normalise(vae.encode_whole(picture)[0])
