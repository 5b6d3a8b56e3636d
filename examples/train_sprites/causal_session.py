"""One process of the causal training: model, data, and the steps of both stages.

Shape suffixes: B clips, J chunks, K text slots.
"""

import copy
import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.train_sprites.causal_settings import STREAMING, CausalSettings, Stage
from examples.train_sprites.chunk_attention import Bank
from examples.train_sprites.clock import Clock
from examples.train_sprites.few_steps import (
    DIAGONAL,
    EVERY_CHUNK,
    LEVELS,
    LONGER_START,
    Rolled,
    Teacher,
    make_step_lesson,
    roll_out,
    sigma_of,
)
from examples.train_sprites.judging import Judge
from examples.train_sprites.ranks import Ranks
from examples.train_sprites.sprites_model import WORD_SLOTS, SpritesModel
from examples.train_sprites.state_parts import write_parts
from examples.train_sprites.stream_trial import StreamTrial
from examples.train_sprites.tokenizer import build_tokenizer, list_words
from examples.train_sprites.train_vae import load_vae
from examples.train_sprites.training import Trainer
from examples.train_sprites.window_loss import (
    Lesson,
    disturb,
    draw_levels,
    make_lesson,
    predict,
    recall_own,
    weighted_error,
)
from examples.train_sprites.window_pool import WINDOW_CHUNKS, WindowPool, Windows
from reelray.workers.models.wan.transformer import REGIONS

TRIALS = {"every_chunk": EVERY_CHUNK, "diagonal": DIAGONAL, "longer_start": LONGER_START}


class CausalSession:
    """Everything one rank holds while it trains.

    Args:
        settings: Size of the run.
        vae_folder: What `train_vae` wrote.
        model: What training begins with, on the CPU; its text encoder stays as it is.
        out: Folder of logs and states.
        ranks: The processes that train together.
    """

    BATCH = 8  # clips encoded at once: as many frames as 16 of 81

    def __init__(
        self, settings: CausalSettings, vae_folder: Path, model: SpritesModel, out: Path, ranks: Ranks
    ) -> None:
        self.settings, self.ranks, self.out = settings, ranks, out
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.manual_seed(settings.seed + ranks.rank)
        self.words = list_words()
        tokenizer = build_tokenizer(self.words)
        self.model = model.to(ranks.device)
        self.model.text_encoder.requires_grad_(requires_grad=False)
        vae = load_vae(vae_folder, ranks.device)
        self.pool = WindowPool(
            vae,
            tokenizer,
            capacity=settings.pool,
            seed=settings.seed + 1000 * (ranks.rank + 1),
            pair_share=settings.pair_share,
            batch=self.BATCH,
        )
        self.pool.fill(settings.first_clips)
        self.empty_1K = tokenizer([""], padding="max_length", max_length=WORD_SLOTS, return_tensors="pt").input_ids.to(
            ranks.device
        )
        self.served = torch.tensor([sigma_of(level) for level in LEVELS], device=ranks.device)
        self.rng = random.Random(settings.seed)  # the same on every rank: all take the same levels and switches
        self.judge = Judge()
        self.trial = StreamTrial(vae, tokenizer, captions=settings.trial_captions) if self._judges else None
        self.trainer: Trainer[SpritesModel]
        self.clock: Clock
        self.teacher: Teacher
        self._window: tuple[Windows, Tensor, Tensor] | None = None
        self._uses = 0
        self._rolled: tuple[Rolled, Bank] | None = None
        self._levels: list[float] = []

    @property
    def _judges(self) -> bool:
        return self.ranks.leads and self.settings.trial_captions > 0

    def open_stage(self, stage: Stage) -> None:
        """Begin a stage with the weights that are here."""
        strip_compiled(self.model)
        self.trainer = Trainer(self.model, stage.optimisation(), None, self.out / stage.name, self.ranks)
        self.clock = Clock(self.ranks, budget_s=stage.budget_s, steps=stage.steps)
        if self.settings.compile_model:
            self.model.transformer.compile_blocks(dynamic=None)
        self.trainer.log(event="start", stage=stage.name, ranks=self.ranks.count, clips=self.pool.filled)

    def close_stage(self) -> dict[str, float]:
        """Judge the averaged weights, write them, and go on with them; returns the verdicts, on rank 0."""
        trainer, verdicts = self.trainer, dict[str, float]()
        self.save()
        if self.trial is not None:
            for name, schedule in TRIALS.items():
                with self._autocast(), torch.no_grad():
                    text = trainer.average.read(trainer.average.embed(self.trial.ids_BK))
                    right = self.trial.judge(trainer.average.transformer, text, schedule, self.judge)
                verdicts |= {f"{name}_{key}": share for key, share in right.items()}
            trainer.log(event="verdicts", **verdicts)
        with torch.no_grad():
            for weight, mean in zip(self.model.parameters(), trainer.average.parameters(), strict=True):
                weight.copy_(mean)
        return verdicts

    def save(self) -> None:
        """Write the averaged weights, on rank 0."""
        if self.ranks.leads:
            average = {name: p.half().cpu() for name, p in self.trainer.average.named_parameters()}
            state: dict[str, Any] = {"average": average, "words": json.dumps(self.words), "step": self.trainer.step}
            write_parts(state, self.trainer.folder)

    def follow_truth(self) -> tuple[Tensor, Tensor]:
        """One step of the first stage; returns errors [B, J] and the gradient's norm."""
        settings, device = self.settings, self.ranks.device
        own = self.clock.progress >= settings.own_share
        if self._window is None or self._uses >= (settings.own_times if own else 1):
            windows = self.pool.sample(settings.clips)
            ids = self._drop_captions(windows.ids)
            self._window, self._uses = (windows, ids, disturb(windows.latents[:, :-1])), 0
        windows, ids, clean = self._window
        lesson = make_lesson(windows, clean, draw_levels(settings.clips, WINDOW_CHUNKS, self.served, device))
        flow, error, norm = self._step(ids, windows.switch, lesson)
        self._window = windows, ids, recall_own(windows, clean, lesson, flow)
        self._uses += 1
        return error, norm

    def open_teacher(self) -> None:
        """Let the weights that are here teach from now on."""
        strip_compiled(self.model)
        teacher = copy.deepcopy(self.model)  # its gradients stay on: compiled regions are those of the student then
        if self.settings.compile_model:
            teacher.transformer.compile_blocks(dynamic=None)
        self.teacher = Teacher(teacher, STREAMING, self.empty_1K)

    def follow_teacher(self) -> tuple[Tensor, Tensor]:
        """One step of the second stage; returns errors [B, J] and the gradient's norm."""
        if self.trainer.step % self.settings.truth_every == self.settings.truth_every - 1:
            return self._follow_truth_again()
        if not self._levels:
            self._levels = self.rng.sample(LEVELS, len(LEVELS))
            self._rolled = self._roll_out()
        assert self._rolled is not None
        (rolled, bank), level = self._rolled, self._levels.pop()
        with self._autocast():
            ends = self.teacher.follow(rolled, level, bank)
        lesson = make_step_lesson(rolled, level, ends)
        switch_B = torch.full((len(rolled.ids),), rolled.switch, device=self.ranks.device)
        _, error, norm = self._step(rolled.ids, switch_B, lesson)
        return error, norm

    def _follow_truth_again(self) -> tuple[Tensor, Tensor]:
        """A step of truth among those of the teacher; what a chunk shows anew is the teacher's to say."""
        windows = self.pool.sample(self.settings.clips)
        chosen = torch.randint(len(self.served), windows.is_valid.shape, device=self.ranks.device)
        lesson = make_lesson(windows, disturb(windows.latents[:, :-1]), self.served[chosen])
        lesson.weight.mul_(~windows.is_fresh)
        _, error, norm = self._step(windows.ids, windows.switch, lesson)
        return error, norm

    def _roll_out(self) -> tuple[Rolled, Bank]:
        """Streams of the student, and what the teacher remembers of them."""
        schedule = self.rng.choice((EVERY_CHUNK, DIAGONAL))
        changes = self.rng.random() < self.settings.switch_share
        switch = self.rng.randint(1, WINDOW_CHUNKS - 1) if changes else WINDOW_CHUNKS
        ids_B2K = self.pool.sample(self.settings.clips).ids
        with self._autocast():
            rolled = roll_out(self.model, STREAMING, schedule, ids_B2K, chunks=WINDOW_CHUNKS, switch=switch)
            return rolled, self.teacher.remember(rolled)

    def _step(self, ids_B2K: Tensor, switch_B: Tensor, lesson: Lesson) -> tuple[Tensor, Tensor, Tensor]:
        """Flow, errors and the gradient's norm of one update."""
        self.trainer.progress = self.clock.progress
        with self._autocast():
            flow = predict(self.model, STREAMING, ids_B2K, switch_B, lesson)
        loss, error_BJ = weighted_error(flow, lesson)
        norm = self.trainer.update(loss)
        self.clock.tick(self.trainer.step)
        if self.trainer.step % self.settings.renew_every == 0:
            self.pool.renew()
        return flow.detach(), error_BJ, norm

    def _drop_captions(self, ids_B2K: Tensor) -> Tensor:
        """Each prompt by itself: guidance asks without one over what was remembered with another."""
        dropped_B21 = torch.rand(*ids_B2K.shape[:2], 1, device=ids_B2K.device) < self.settings.caption_dropout
        return torch.where(dropped_B21, self.empty_1K, ids_B2K)

    def _autocast(self) -> torch.autocast:
        kind = self.ranks.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")  # a CPU without AMX is slower in bfloat16


def strip_compiled(model: SpritesModel) -> None:
    """Undo `WanTransformer.compile_blocks`: a copy would go on computing with the weights of the original."""
    for block in model.transformer.source.modules():
        for region in REGIONS:
            block.__dict__.pop(region, None)
