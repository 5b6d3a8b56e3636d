"""How long one denoise step takes on the slowest rank, term by term.

For one layer of one forward, with S tokens of the window, K attended tokens, width d, feed-forward width f, H heads of
width D, c context tokens, R ranks that share the tokens, u of them by `ulysses` and r by `ring`, and s = ceil(S / R):

- products: 2 s (6 d^2 + 2 d f) FLOPs: q, k, v and output of self-attention, q and output of cross-attention, and the
  feed-forward; keys and values of the text are made once per prompt. The rate falls for small s d.
- self-attention: 4 ceil(S/r) K ceil(H/u) D FLOPs; cross-attention: 4 s c d FLOPs.
- element-wise: a s d + b s f values through device memory; a and b are fitted.
- Ulysses (arXiv 2309.14509): q, k, v in and the output back, each s d values, of which (u-1)/u are sent. Both
  directions as measured where ranks share memory; else by collectives, with a copy before or after the wire.
- ring (arXiv 2310.01889): keys and values of a rank's tokens are packed and go round in r-1 steps; each merges two
  partial results. What is remembered lies on every rank of the ring.
- launch: no layer is faster than the host starts its kernels and exchanges.
- weights: of the copy of the next block, what does not hide behind the layer.

A step evaluates one branch, or two one after the other, or two side by side (`cfg`, which then gathers the predictions,
float32). With `pipe` p ranks m branches take m + p - 1 turns of one stage, and each turn hands s d values on; cut into
M patches (arXiv 2405.14430) they take m M + p - 1 turns of S/M tokens, which attend all K. These are the formulas of
the research on parallelism restated; `tests/scheduler/plan/test_measured.py` compares.
"""

import math
from dataclasses import dataclass, fields
from typing import Self

from reelray.proto.layout import Layout
from reelray.proto.patching import Patching
from reelray.proto.residency import Blocks, Residency
from reelray.scheduler.plan.calibration import Calibration
from reelray.scheduler.plan.job import PlanJob, Window
from reelray.scheduler.plan.machine import Link
from reelray.scheduler.plan.residency import sharing_ranks

FP32_BYTES = 4
ULYSSES_EXCHANGES = 4
MERGED_BYTES = 6
"""Read two partial results of two bytes a value and write one."""
PACKED_BYTES = 8
"""Read and write a key and a value of two bytes each."""
PER_TFLOP_MS = 1e-9
"""FLOPs at TFLOP/s, in milliseconds."""
PER_GB_MS = 1e-6
"""Bytes at GB/s, in milliseconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """Milliseconds of the slowest rank, and the bytes it sends.

    Args:
        gemm: Matrix products.
        attention: Self-attention.
        cross: Attention to text and image.
        elementwise: Norms, modulation, activations.
        relayout: Copies around exchanges, merges of ring steps.
        ulysses: Exchanges of tokens and heads.
        ring: Passing keys and values around.
        cfg: Gathering the branches of guidance.
        pipe: Handing tokens on, and waiting for the first and last stage.
        launch: Waiting for the host.
        weights: Waiting for weights.
        sent_bytes: Bytes sent.
    """

    gemm: float = 0.0
    attention: float = 0.0
    cross: float = 0.0
    elementwise: float = 0.0
    relayout: float = 0.0
    ulysses: float = 0.0
    ring: float = 0.0
    cfg: float = 0.0
    pipe: float = 0.0
    launch: float = 0.0
    weights: float = 0.0
    sent_bytes: float = 0.0

    @property
    def terms_ms(self) -> dict[str, float]:
        """Milliseconds by term."""
        return {term.name: getattr(self, term.name) for term in fields(self) if term.name != "sent_bytes"}

    @property
    def total_ms(self) -> float:
        """Milliseconds of the step."""
        return sum(self.terms_ms.values())

    @property
    def communication_ms(self) -> float:
        """Milliseconds that one rank would not need alone."""
        return self.relayout + self.ulysses + self.ring + self.cfg + self.pipe

    def plus(self, other: Self, times: float = 1.0) -> Self:
        """This and `times` the other."""
        return type(self)(**{t.name: getattr(self, t.name) + times * getattr(other, t.name) for t in fields(self)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What the time of a step depends on besides its window."""

    job: PlanJob
    layout: Layout
    residency: Residency
    link: Link
    table: Calibration
    patching: Patching | None = None

    @property
    def stage_layers(self) -> int:
        """Layers of the longest stage."""
        return math.ceil(self.job.facts.layers / self.layout.pipe)

    @property
    def block_bytes(self) -> float:
        """Bytes of one block's weights."""
        return self.job.facts.parameters * self.job.value_bytes / self.job.facts.layers


def predict_step(
    setting: Setting, window: Window, *, guided: bool, patched: bool = False, together: int = 1
) -> StepTime:
    """Predict one denoise step of one window.

    Args:
        setting: Job, layout and machine.
        window: Tokens.
        guided: Whether the step needs both branches.
        patched: Whether its patches follow each other, as the setting says.
        together: Windows of other clips and this one that go through the stages in one step; they share the waiting.
    """
    layout, table = setting.layout, setting.table
    turns, part = 2 if guided and layout.cfg == 1 else 1, window
    if patched and setting.patching is not None:
        turns *= setting.patching.patches
        part = Window(tokens=math.ceil(window.tokens / setting.patching.patches), attended=window.attended)
    layer = predict_layer(setting, part)
    step = StepTime().plus(layer, turns * setting.stage_layers)
    if layout.pipe > 1:
        handed = window_share(setting, part) * setting.job.facts.dim * setting.job.value_bytes
        hand_over = table.exchange_time(handed, setting.link)
        filling = (layout.pipe - 1) * (layer.total_ms * setting.stage_layers + hand_over) / together
        step = step.plus(StepTime(pipe=filling + turns * hand_over, sent_bytes=turns * handed))
    if layout.cfg > 1 and guided:
        predicted = window.tokens * math.prod(setting.job.facts.patch) * setting.job.facts.latent_channels * FP32_BYTES
        step = step.plus(StepTime(cfg=table.exchange_time(predicted, setting.link), sent_bytes=predicted))
    return step


def predict_layer(setting: Setting, window: Window) -> StepTime:
    """Predict one layer of one forward."""
    compute = layer_compute(setting, window)
    work = compute.plus(layer_exchange(setting, window))
    layout, table = setting.layout, setting.table
    exchanges = ULYSSES_EXCHANGES * (layout.ulysses > 1) + 2 * (layout.ring - 1)
    host = table.launch_ms + table.exchange_launch_ms * exchanges
    waiting = max(0.0, host - work.total_ms)
    arriving, sent = weight_arrival(setting)
    # Weights may come over the wire that the exchanges use: only compute hides them.
    exposed = max(0.0, arriving - table.copy_overlap * compute.total_ms)
    return work.plus(StepTime(launch=waiting, weights=exposed, sent_bytes=sent))


def window_share(setting: Setting, window: Window) -> int:
    """Tokens of the rank that has most."""
    return math.ceil(window.tokens / setting.layout.sequence)


def layer_compute(setting: Setting, window: Window) -> StepTime:
    """Compute of one layer on the rank that has most."""
    job, layout, table = setting.job, setting.layout, setting.table
    dim, ffn, heads = job.facts.dim, job.sizes.ffn_dim, math.ceil(job.sizes.heads / layout.ulysses)
    tokens, queries = window_share(setting, window), math.ceil(window.tokens / layout.ring)
    context = job.facts.text_tokens + job.sizes.image_tokens
    gemm = 2 * tokens * (6 * dim**2 + 2 * dim * ffn) / table.gemm_rate(tokens, dim)
    attention = 4 * queries * window.attended * heads * dim / job.sizes.heads
    moved = tokens * (table.passes_dim * dim + table.passes_ffn * ffn) * job.value_bytes
    return StepTime(
        gemm=gemm * PER_TFLOP_MS,
        attention=attention / table.attention_tflops.at(queries * heads) * PER_TFLOP_MS,
        cross=4 * tokens * context * dim / table.cross_tflops * PER_TFLOP_MS,
        elementwise=moved / table.memory_gb_s * PER_GB_MS,
    )


def layer_exchange(setting: Setting, window: Window) -> StepTime:
    """Communication of one layer that does not hide behind compute."""
    job, layout, table = setting.job, setting.layout, setting.table
    exposed = 1 - table.exchange_overlap
    share = window_share(setting, window) * job.facts.dim
    time = StepTime()
    if layout.ulysses > 1:
        time = time.plus(ulysses_exchange(setting, share))
    if layout.ring > 1:
        turns = layout.ring - 1
        heads = math.ceil(job.sizes.heads / layout.ulysses) / job.sizes.heads
        passed = 2 * math.ceil(window.tokens / layout.ring) * heads * job.facts.dim * job.value_bytes
        merging = turns * share * MERGED_BYTES / table.memory_gb_s
        time = time.plus(
            StepTime(
                ring=exposed * turns * table.exchange_time(passed, setting.link),
                relayout=(share * PACKED_BYTES / table.relayout_gb_s + merging) * PER_GB_MS,
                sent_bytes=turns * passed,
            )
        )
    return time


def ulysses_exchange(setting: Setting, share: float) -> StepTime:
    """Both directions of one layer.

    Args:
        setting: Job, layout and machine.
        share: Tokens of a rank times the width of the model.
    """
    job, layout, table = setting.job, setting.layout, setting.table
    sent = share * job.value_bytes * (layout.ulysses - 1) / layout.ulysses
    to_heads, to_tokens = (table.ulysses_time(parts * sent, setting.link) for parts in (ULYSSES_EXCHANGES - 1, 1))
    if to_heads is not None and to_tokens is not None:
        return StepTime(ulysses=to_heads + to_tokens, sent_bytes=ULYSSES_EXCHANGES * sent)
    copied = 2 * ULYSSES_EXCHANGES * share * job.value_bytes
    return StepTime(
        ulysses=(1 - table.exchange_overlap) * ULYSSES_EXCHANGES * table.exchange_time(sent, setting.link),
        relayout=copied / table.relayout_gb_s * PER_GB_MS,
        sent_bytes=ULYSSES_EXCHANGES * sent,
    )


def weight_arrival(setting: Setting) -> tuple[float, float]:
    """Milliseconds until one block is on the rank, and the bytes the rank sends for it."""
    match setting.residency.blocks:
        case Blocks.OFFLOADED:
            rate = min(setting.table.host_gb_s, setting.table.host_total_gb_s / setting.layout.ranks)
            return setting.block_bytes / rate * PER_GB_MS, 0.0
        case Blocks.SHARDED:
            ranks = sharing_ranks(setting.layout)
            gathered = setting.block_bytes * (ranks - 1) / ranks
            return setting.table.exchange_time(gathered, setting.link), gathered
        case _:
            return 0.0, 0.0
