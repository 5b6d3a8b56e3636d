"""Sizes of a causal run, and the memory that the model is made for."""

from dataclasses import dataclass

from examples.train_sprites.chunk_forward import Streaming
from examples.train_sprites.sprites_model import MUON_PREFIXES
from examples.train_sprites.training import Optimisation
from examples.train_sprites.window_pool import CHUNK_FRAMES
from reelray.proto.memory_rule import MemoryRule, Placement

RULE = MemoryRule(local=9, sink=3, placement=Placement.RELATIVE)
STREAMING = Streaming(rule=RULE, size=CHUNK_FRAMES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stretch of training.

    Args:
        name: Of its folder and in the log.
        budget_s: Seconds of training; compilation and measurements are not counted.
        steps: Steps, in place of seconds.
        learning_rate: AdamW's peak.
        matrix_rate: Muon's peak; 0 trains everything by AdamW.
        warmup_steps: Linear from zero.
    """

    name: str
    budget_s: float
    steps: int | None = None
    learning_rate: float
    matrix_rate: float
    warmup_steps: int

    def optimisation(self) -> Optimisation:
        """Settings of the optimisers."""
        return Optimisation(
            learning_rate=self.learning_rate,
            matrix_rate=self.matrix_rate,
            muon_prefixes=MUON_PREFIXES if self.matrix_rate else (),
            warmup_steps=self.warmup_steps,
            final=0.02,
            betas=(0.9, 0.95),
            ema=0.9995,
            ema_power=12.0,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalSettings:
    """Size of a run on one rank.

    Args:
        seed: Of data and noise; the rank is added.
        clips: Windows per step.
        pool: Clips whose latents are kept.
        first_clips: Clips made before the first step.
        renew_every: Steps between renewals of 8 clips of the pool.
        pair_share: Share of clips with two sprites.
        caption_dropout: Share of prompts left out.
        own_share: Share of the first stage before chunks follow what the model itself has made.
        own_times: Steps on one batch then: the first over the truth, the others over what the last one made.
        truth_every: In the second stage, every so many steps one follows the truth.
        switch_share: Share of the second stage's streams whose prompt changes.
        compile_model: Compile the regions of the blocks.
        log_every: Steps between lines of loss.
        trial_captions: Streams sampled and judged after each stage; 0 leaves it out.
    """

    seed: int = 0
    clips: int = 40
    pool: int = 4096
    first_clips: int = 512
    renew_every: int = 6
    pair_share: float = 0.55
    caption_dropout: float = 0.1
    own_share: float = 0.3
    own_times: int = 3
    truth_every: int = 5
    switch_share: float = 0.5
    compile_model: bool = True
    log_every: int = 50
    trial_captions: int = 48

    def __post_init__(self) -> None:
        if self.first_clips > self.pool:
            raise ValueError(f"first_clips is {self.first_clips}; the pool holds only {self.pool}")
        if self.own_times < 1 or self.truth_every < 2:
            raise ValueError(
                f"own_times is {self.own_times} and truth_every {self.truth_every}; they must be at least 1 and 2"
            )
