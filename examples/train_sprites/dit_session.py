"""One process of the transformer's training: model, optimisers, pool, clock and measurements."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from examples.train_sprites.clock import Clock
from examples.train_sprites.dit_loss import measure_loss, training_loss
from examples.train_sprites.judging import Judge, count_right
from examples.train_sprites.latent_pool import LATENT_FRAMES, LatentPool
from examples.train_sprites.pretrain_text import teach_binding
from examples.train_sprites.ranks import Ranks
from examples.train_sprites.scenes import Mixture
from examples.train_sprites.sprites_model import MUON_PREFIXES, TEXT_PREFIX, WORD_SLOTS, SpritesModel
from examples.train_sprites.state_parts import write_parts
from examples.train_sprites.tokenizer import build_tokenizer, list_words
from examples.train_sprites.train_vae import load_vae
from examples.train_sprites.training import Optimisation, Trainer
from examples.train_sprites.trial import Trial
from reelray.workers.models.wan.transformer import WanTransformer

if TYPE_CHECKING:
    from concurrent.futures import Future

    from reelray.quality.sprites.detector import Verdict
    from reelray.quality.sprites.scene import Scene

TEXT_ONLY_RATE = 1e-3
# cuDNN is the fastest on Hopper; the order must also hold while the backward graph is traced.
BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Size of one run.

    Args:
        seed: Of weights and, with the rank added, of data.
        budget_s: Seconds of training in all sessions.
        steps: Steps in all, in place of seconds.
        batch: Whole clips per step and rank; of short ones there are as many as have the same latent frames.
        short_frames: Latent frames of the clips that training begins with.
        short_share: Share of the run on short clips.
        pair_share: Share of clips with two sprites.
        restless: How many times likelier than another a clip is in which something spins or bounces.
        beige: How many times likelier a beige background is than chance makes it.
        pool: Clips whose latents are kept on each rank.
        first_clips: Clips made before the first step.
        renew_every: Steps between renewals of 16 clips of the pool.
        caption_dropout: Share of captions replaced by the empty prompt.
        learning_rate: AdamW's, for all that Muon does not step, but the text encoder.
        text_rate: AdamW's for the text encoder.
        text_steps: Steps on captions alone before the first one on clips; 0 leaves them out.
        matrix_rate: Muon's; 0 trains everything by AdamW, which wants a `learning_rate` of 1e-3 to 3e-3.
        compile_model: Compile the loss.
        profile: Write the costliest kernels of ten steps to `profile_FRAMES.txt`.
        sync_every: Steps between agreements on the clock.
        log_every: Steps between lines of loss.
        measure_every: Steps between measurements on held-out captions.
        trial_captions: Captions sampled and judged in a measurement; 0 leaves it out.
    """

    seed: int = 0
    budget_s: float = 1500.0
    steps: int | None = None
    batch: int = 48
    short_frames: int = 9
    short_share: float = 0.35
    pair_share: float = 0.5
    restless: float = 1.0
    beige: float = 1.0
    pool: int = 12288
    first_clips: int = 3072
    renew_every: int = 16
    caption_dropout: float = 0.1
    learning_rate: float = 5e-3
    text_rate: float = 3e-4
    text_steps: int = 150
    matrix_rate: float = 1.2e-2
    compile_model: bool = True
    profile: bool = False
    sync_every: int = 25
    log_every: int = 200
    measure_every: int = 2000
    trial_captions: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.short_frames <= LATENT_FRAMES:
            raise ValueError(f"short_frames is {self.short_frames}; allowed are 1 to {LATENT_FRAMES}")
        if not 0 <= self.short_share <= 1:
            raise ValueError(f"short_share is {self.short_share}; it must lie in 0..1")
        if self.first_clips > self.pool:
            raise ValueError(f"first_clips is {self.first_clips}; the pool holds only {self.pool}")

    def mixture(self) -> Mixture:
        """Scenes that training draws."""
        return Mixture(pair_share=self.pair_share, restless=self.restless, beige=self.beige)

    def optimisation(self) -> Optimisation:
        """Settings of the optimisers."""
        return Optimisation(
            learning_rate=self.learning_rate,
            matrix_rate=self.matrix_rate,
            own_rates=((TEXT_PREFIX, self.text_rate),),
            muon_prefixes=MUON_PREFIXES if self.matrix_rate else (),
            warmup_steps=300,
            final=0.01,
            betas=(0.9, 0.95) if self.matrix_rate else (0.9, 0.99),
            ema=0.9998,
            ema_power=16.0,
        )

    def shape(self, progress: float) -> tuple[int, int]:
        """Clips per step and latent frames of each at this point of the run."""
        if progress >= self.short_share:
            return self.batch, LATENT_FRAMES
        return self.batch * LATENT_FRAMES // self.short_frames, self.short_frames


class DitSession:
    """Everything one rank holds while it trains.

    Args:
        settings: Size of the run.
        vae_folder: What `train_vae` wrote.
        out: Folder of the log.
        ranks: The processes that train together.
    """

    CHUNK = 16

    def __init__(self, settings: Settings, vae_folder: Path, out: Path, ranks: Ranks) -> None:
        self.settings, self.ranks, self.out = settings, ranks, out
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.manual_seed(settings.seed)
        self.words = list_words()
        tokenizer = build_tokenizer(self.words)
        model = SpritesModel.shipped(len(tokenizer)).to(ranks.device)
        self.trainer = Trainer(model, settings.optimisation(), None, out, ranks)
        self.clock = Clock(ranks, budget_s=settings.budget_s, steps=settings.steps)
        vae = load_vae(vae_folder, ranks.device)
        chunk = self.CHUNK
        self.pool = LatentPool(
            vae,
            tokenizer,
            split="train",
            capacity=settings.pool,
            seed=settings.seed,
            mixture=settings.mixture(),
            chunk=chunk,
        )
        self.held_out = LatentPool(
            vae, tokenizer, split="held_out", capacity=4 * chunk, seed=1, mixture=Mixture(pair_share=0.4), chunk=chunk
        )
        self.trial = Trial(vae, tokenizer, captions=settings.trial_captions) if settings.trial_captions else None
        ids = tokenizer("", padding="max_length", max_length=WORD_SLOTS, return_tensors="pt").input_ids
        self.empty_1K: Tensor = ids.to(ranks.device)
        self.loss_of = torch.compile(training_loss, dynamic=False) if settings.compile_model else training_loss
        self.judge = Judge()
        self._compiled_for: tuple[int, int] | None = None
        self._judged: list[tuple[int, list[tuple[Scene, Future[Verdict]]]]] = []
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def start(self) -> None:
        """Make the first clips. Data depends on seed, rank and step, so that a resumed run sees new clips."""
        place = 1000 * self.settings.seed + self.ranks.rank + 64 * self.trainer.step
        torch.manual_seed(place)
        self.pool.generator.manual_seed(place)
        self.pool.rng.seed(place)
        self.held_out.fill(4 * self.CHUNK)
        self.pool.fill(self.settings.first_clips)
        self.trainer.log(event="start", ranks=self.ranks.count, clips=self.pool.filled, settings=asdict(self.settings))

    def take_step(self) -> None:
        """Train on one batch; the first step of a shape compiles it off the clock."""
        shape = self.settings.shape(self.clock.progress)
        if shape == self._compiled_for:
            self._step(*shape)
            return
        self.clock.pause()
        self._step(*shape)
        self._wait()
        self._compiled_for = shape
        self.trainer.log(event="compiled", batch=shape[0], latent_frames=shape[1])
        if self.settings.profile:
            self._profile(*shape)
        self.clock.run()

    def log_loss(self) -> None:
        """Log the last loss."""
        assert self._last is not None
        loss, error, norm = self._last
        values = {"loss": loss, "error": error, "norm": norm}
        rounded = {name: round(float(value), 5) for name, value in values.items()}
        self.trainer.log(**rounded, progress=round(self.clock.progress, 4), clips=self.pool.filled)

    def measure(self) -> None:
        """Log held-out losses of the averaged weights and hand their clips to the detector; rank 0 only works."""
        self.clock.pause()
        if self.ranks.leads:
            self.collect(wait=False)
            model = self.trainer.average
            self.trainer.log(**measure_loss(model, self.held_out.ids[:, 0], self.held_out.latents))
            if self.trial is not None:
                judged = self.judge.submit_all(self.trial.clips(model), self.trial.scenes)
                self._judged.append((self.trainer.step, judged))
        self._wait()
        self.clock.run()

    def collect(self, *, wait: bool) -> None:
        """Log verdicts that have come in."""
        while self._judged and (wait or all(future.done() for _, future in self._judged[0][1])):
            step, judged = self._judged.pop(0)
            self.trainer.log(event="verdicts", of_step=step, **count_right(judged))

    def finish(self, *, complete: bool) -> None:
        """Log the last verdicts and the end."""
        self.collect(wait=True)
        peak = torch.cuda.max_memory_allocated() if self.ranks.device.type == "cuda" else 0
        self.trainer.log(event="end", complete=complete, trained_s=round(self.clock.trained_s, 1), peak_bytes=peak)

    def save(self) -> None:
        """Write what a later session needs, on rank 0, off the clock."""
        self.clock.pause()
        if self.ranks.leads:
            write_parts(self._state(), self.out)
        self.clock.run()

    def _state(self) -> dict[str, Any]:
        return {**self.trainer.compact_state(), "trained_s": self.clock.trained_s, "words": json.dumps(self.words)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: The vocabulary has changed since.
        """
        if json.loads(state["words"]) != self.words:
            raise ValueError("the state was trained on other words; it fits only the vocabulary it began with")
        self.trainer.load_compact(state)
        self.clock.trained_s, self.clock.progress = float(state["trained_s"]), float(state["progress"])

    def teach_text(self) -> None:
        """Train the text encoder on captions alone; every rank ends with the weights of the first."""
        settings, trainer = self.settings, self.trainer
        if not settings.text_steps:
            return
        model, tokenizer = trainer.module, build_tokenizer(self.words)
        known = teach_binding(model, tokenizer, steps=settings.text_steps, rate=TEXT_ONLY_RATE, seed=settings.seed)
        encoder = model.text_encoder
        self.ranks.copy_from_first(p.data for p in encoder.parameters())
        trainer.average.text_encoder.load_state_dict(encoder.state_dict())
        trainer.log(event="text", **known)

    @torch.no_grad()
    def begin_with(self, transformer: WanTransformer, text: Mapping[str, Tensor]) -> None:
        """Take the weights of another run.

        Args:
            transformer: Its transformer.
            text: Its text encoder, by our names.
        """
        for module in (self.trainer.module, self.trainer.average):
            for own, other in zip(module.transformer.parameters(), transformer.parameters(), strict=True):
                own.copy_(other)
            module.text_encoder.load_state_dict(text)

    def _step(self, batch: int, frames: int) -> None:
        trainer = self.trainer
        trainer.progress = self.clock.progress
        latents, ids = self.pool.sample(batch, frames)
        with sdpa_kernel(BACKENDS, set_priority=True):
            with torch.autocast(self.ranks.device.type, torch.bfloat16):
                loss, error = self.loss_of(trainer.module, ids, self.empty_1K, latents, self.settings.caption_dropout)
            norm = trainer.update(loss)
        self._last = loss.detach(), error, norm
        self.clock.tick(trainer.step)
        if trainer.step % self.settings.renew_every == 0:
            self.pool.renew()

    def _profile(self, batch: int, frames: int) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.ranks.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profile:
            for _ in range(10):
                self._step(batch, frames)
            self._wait()
        if self.ranks.leads:
            key = "self_cuda_time_total" if len(activities) > 1 else "self_cpu_time_total"
            table = profile.key_averages().table(sort_by=key, row_limit=60, max_name_column_width=90)
            (self.out / f"profile_{frames}.txt").write_text(table)

    def _wait(self) -> None:
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize()
