"""Few steps from many: the student is asked where it stands itself, and learns where its teacher would end from there.

Streams are rolled out by the student over what it has made itself, by the step lists that are served. Wherever it was
asked, the teacher (the model before this stage) follows its own path from the same noisy chunk over the same memory to
its end, with guidance where a chunk shows something new; the student learns to jump there. So guidance costs nothing
when it is served, and nobody but the teacher, who has learned from the truth, says what is right. The idea of asking
on the student's own path is Self Forcing's, the shrinking step lists are Diagonal Distillation's.

Shape suffixes: B streams, J chunks, K text slots, C channels, T latent frames of a chunk, H/W latent height/width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.train_sprites.chunk_attention import Bank, Seat
from examples.train_sprites.chunk_forward import Rows, Streaming, evaluate_seats, select_rows
from examples.train_sprites.chunk_rollout import Rollout
from examples.train_sprites.sprites_model import SpritesModel
from examples.train_sprites.window_loss import Lesson, weigh_chunks
from reelray.proto.recipe import Schedule, Solver
from reelray.workers.models.wan.text_context import TextContext
from reelray.workers.samplers.api import build_sampler
from reelray.workers.samplers.guidance import mix_branches

LEVELS = (1000.0, 933.0, 733.0, 357.0)
EVERY_CHUNK = Schedule(solver=Solver.X0_RENOISE, timesteps=LEVELS, shift=5.0)
DIAGONAL = Schedule(
    solver=Solver.X0_RENOISE,
    timesteps=(1000.0, 357.0),
    shift=5.0,
    first_chunks=(LEVELS, (1000.0, 933.0, 357.0)),
)
"""Four steps, three, then two: the later a chunk, the more its past has decided."""
LONGER_START = Schedule(
    solver=Solver.X0_RENOISE,
    timesteps=LEVELS,
    shift=5.0,
    first_chunks=((1000.0, 980.0, 933.0, 860.0, 733.0, 600.0, 357.0, 200.0),),
)
"""Eight steps for the first chunk, which decides most: what a model gains by them is what its few steps lack."""
PATH = (1000.0, 980.0, 960.0, 933.0, 860.0, 733.0, 600.0, 480.0, 357.0, 220.0, 100.0)
GUIDANCE = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Rolled:
    """Streams that the student has made.

    Args:
        clean: [B, J, C, T, H, W].
        seen: What the network saw on the way, by timestep; shape of `clean`.
        ids: Token ids of both prompts [B, 2, K].
        switch: The chunk from which the second prompt holds, the same for all; J where it never does.
    """

    clean: Tensor
    seen: dict[float, Tensor]
    ids: Tensor
    switch: int

    @property
    def fresh(self) -> tuple[int, ...]:
        """Chunks that show something new."""
        return tuple(chunk for chunk in (0, self.switch) if chunk < self.clean.shape[1])


@torch.no_grad()
def roll_out(
    student: SpritesModel, streaming: Streaming, schedule: Schedule, ids_B2K: Tensor, *, chunks: int, switch: int
) -> Rolled:
    """Make streams by the student.

    Args:
        student: The model.
        streaming: Chunks and memory.
        schedule: Step lists.
        ids_B2K: Both prompts of every stream.
        chunks: Of each stream.
        switch: The chunk from which the second prompts hold.
    """
    texts = read_prompts(student, ids_B2K)
    shape = (len(ids_B2K), 16, streaming.size, 16, 24)
    rollout = Rollout(transformer=student.transformer, streaming=streaming)
    clean, seen = [], []

    def noise_of(_chunk: int, _step: int) -> Tensor:
        return torch.randn(shape, device=ids_B2K.device)

    for chunk in range(chunks):
        text = texts[chunk >= switch]
        latents, visited = rollout.denoise(schedule, text, noise_of)
        clean.append(latents)
        seen.append({level: visited.get(level, renoise(latents, level)) for level in LEVELS})
        if chunk < chunks - 1:
            rollout.remember(latents, text)
    stacked = {level: torch.stack([each[level] for each in seen], 1) for level in LEVELS}
    return Rolled(clean=torch.stack(clean, 1), seen=stacked, ids=ids_B2K, switch=switch)


def read_prompts(model: SpritesModel, ids_B2K: Tensor) -> tuple[TextContext, TextContext]:
    """Contexts of first and second prompts."""
    first, second = (model.read(model.embed(ids_B2K[:, number])) for number in range(2))
    return first, second


def renoise(clean: Tensor, timestep: float) -> Tensor:
    """Noise what is clean up to a served level."""
    return torch.lerp(clean, torch.randn_like(clean), sigma_of(timestep))


def sigma_of(timestep: float) -> float:
    """Noise level at which the served sampler works when it tells the network this timestep."""
    return build_sampler(Schedule(solver=Solver.X0_RENOISE, timesteps=(timestep,), shift=EVERY_CHUNK.shift)).sigmas[0]


class Teacher:
    """Says where a noisy chunk leads.

    Args:
        model: Many-step model; not trained.
        streaming: Chunks and memory.
        empty_1K: Token ids of the empty prompt.
        guidance: Weight of the prompt where a chunk shows something new.
    """

    def __init__(
        self, model: SpritesModel, streaming: Streaming, empty_1K: Tensor, *, guidance: float = GUIDANCE
    ) -> None:
        self._model, self._streaming, self._empty_1K, self._guidance = model, streaming, empty_1K, guidance

    @torch.no_grad()
    def remember(self, rolled: Rolled) -> Bank:
        """Keys and values of what the student has made."""
        bank, chunks = Bank(), rolled.clean.shape[1] - 1
        self._ask(rolled, range(chunks), rolled.clean[:, :-1], 0.0, bank=bank, clean=True)
        return bank

    @torch.no_grad()
    def follow(self, rolled: Rolled, level: float, bank: Bank) -> Tensor:
        """Clean chunks [B, J, C, T, H, W] at the end of the teacher's path.

        Args:
            rolled: What the student has made.
            level: Timestep at which the path begins.
            bank: Of `remember`.
        """
        latents = rolled.seen[level]
        path = tuple(timestep for timestep in PATH if timestep <= level)
        sampler = build_sampler(Schedule(solver=Solver.UNIPC, timesteps=path))
        fresh = list(rolled.fresh)
        for step, timestep in enumerate(sampler.timesteps):
            flow = self._ask(rolled, range(latents.shape[1]), latents, timestep, bank=bank)
            if self._guidance != 1.0:
                bare = self._ask(rolled, fresh, latents[:, fresh], timestep, bank=bank, told=False)
                flow[:, fresh] = mix_branches(flow[:, fresh], bare, self._guidance)
            latents = sampler.step(flow, latents, step)
        return latents

    def _ask(
        self,
        rolled: Rolled,
        places: Sequence[int],
        latents: Tensor,
        timestep: float,
        *,
        bank: Bank,
        clean: bool = False,
        told: bool = True,
    ) -> Tensor:
        """Flow of some chunks [B, J', C, T, H, W]."""
        batch, device = len(latents), latents.device
        place_S1 = torch.tensor(list(places), device=device)[:, None]
        texts = self._model.read(self._model.embed(rolled.ids.flatten(0, 1) if told else self._empty_1K))
        chosen_SB = 2 * torch.arange(batch, device=device) + (place_S1 >= rolled.switch)
        rows = Rows(
            latents=latents.transpose(0, 1).flatten(0, 1),
            timesteps=torch.full((latents.shape[0] * latents.shape[1],), timestep, device=device),
            text=select_rows(texts, chosen_SB.flatten() if told else torch.zeros_like(chosen_SB).flatten()),
        )
        seats = [Seat(place, clean=clean) for place in places]
        flow = evaluate_seats(self._model.transformer, self._streaming, seats, rows, bank=bank)
        return torch.unflatten(flow, 0, (len(seats), batch)).transpose(0, 1)


def make_step_lesson(rolled: Rolled, level: float, ends: Tensor) -> Lesson:
    """Ask the student for the way from a served level to the teacher's ends.

    Args:
        rolled: What the student has made.
        level: Served timestep.
        ends: Of `Teacher.follow`.
    """
    noisy, sigma = rolled.seen[level], sigma_of(level)
    batch, chunks = noisy.shape[:2]
    is_fresh_J = torch.zeros(chunks, dtype=torch.bool, device=noisy.device)
    is_fresh_J[list(rolled.fresh)] = True
    sigma_BJ = torch.full((batch, chunks), sigma, device=noisy.device)
    return Lesson(
        clean=rolled.clean[:, :-1],
        noisy=noisy,
        timesteps=torch.full((batch, chunks), level, device=noisy.device),
        flow=(noisy - ends) / sigma,
        weight=weigh_chunks(sigma_BJ, is_fresh_J.expand(batch, -1)),
    )
