"""What a clip costs under one layout, one residency of weights and one place of decode."""

from dataclasses import dataclass, replace

from reelray.proto.layout import Layout
from reelray.proto.patching import Patching
from reelray.proto.residency import Blocks, Encoder, Residency
from reelray.scheduler.plan.calibration import Calibration
from reelray.scheduler.plan.job import PlanJob
from reelray.scheduler.plan.machine import Machine
from reelray.scheduler.plan.memory_use import MemoryUse, decode_alone_bytes, encoder_weights, predict_memory
from reelray.scheduler.plan.step_time import PER_GB_MS, PER_TFLOP_MS, Setting, StepTime, predict_step

HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One row of a plan.

    Args:
        layout: How the ranks of one engine share the denoising; its lanes run different clips.
        residency: Where the weights are.
        decode_ranks: GPUs of an engine that only decode; 0 when each lane decodes.
        engines: Engines side by side.
        step: Mean step of the clip.
        text_s: Encoding prompts, copying a released encoder included.
        denoise_s: All steps of all chunks.
        decode_s: All frames.
        clip_s: From prompt to last frame, one clip alone.
        interval_s: Between two clips when more wait than run; all engines together.
        memory: Bytes of the fullest GPU that denoises.
        peak_bytes: Bytes of the fullest GPU, those that decode included.
        memory_bytes: Bytes it has.
        patching: What is approximated; None where the clip is that of one rank.
    """

    layout: Layout
    residency: Residency
    decode_ranks: int
    engines: int
    step: StepTime
    text_s: float
    denoise_s: float
    decode_s: float
    clip_s: float
    interval_s: float
    memory: MemoryUse
    peak_bytes: float
    memory_bytes: int
    patching: Patching | None = None

    @property
    def exact(self) -> bool:
        """Whether the clip is that of one rank."""
        return self.patching is None

    @property
    def fits(self) -> bool:
        """Whether the fullest GPU has room."""
        return self.peak_bytes <= self.memory_bytes

    @property
    def clips_per_hour(self) -> float:
        """Throughput of all GPUs."""
        return HOUR_S / self.interval_s

    @property
    def communication_share(self) -> float:
        """Share of a step that one rank would not need alone."""
        return self.step.communication_ms / self.step.total_ms


def predict(
    job: PlanJob,
    machine: Machine,
    table: Calibration,
    layout: Layout,
    residency: Residency,
    *,
    decode_ranks: int = 0,
    patching: Patching | None = None,
) -> Prediction:
    """Predict a clip. A layout of one lane is repeated as often as there are GPUs; one of several is taken as it is.

    Args:
        job: The clip.
        machine: The GPUs.
        table: What their work costs.
        layout: A legal layout.
        residency: Where the weights are.
        decode_ranks: GPUs of an engine that only decode; 0 lets each lane decode on its own GPUs.
        patching: What is approximated.
    """
    setting = Setting(job=job, layout=layout, residency=residency, link=machine.link, table=table, patching=patching)
    memory = predict_memory(setting, decode_ranks=decode_ranks)
    beside = decode_alone_bytes(setting, decode_ranks) if decode_ranks else 0.0
    text_s = predict_text_s(setting)
    denoise = predict_denoise(setting)
    denoise_s, decode_s = denoise.total_ms / 1000, predict_decode_s(job, table, decode_ranks or layout.lane)
    before_s = text_s + denoise_s
    busy_s = text_s + predict_denoise(setting, together=layout.pipe).total_ms / 1000
    lanes, engines = count_lanes(layout, machine, decode_ranks, lanes_per_decode=before_s / decode_s)
    layout = replace(layout, replica=lanes)
    return Prediction(
        layout=layout,
        residency=residency,
        decode_ranks=decode_ranks,
        engines=engines,
        step=StepTime().plus(denoise, 1 / (sum(job.window_steps) * len(job.windows))),
        text_s=text_s,
        denoise_s=denoise_s,
        decode_s=decode_s,
        clip_s=total_s(job, before_s, decode_s, decode_ranks=decode_ranks),
        interval_s=between_clips_s(layout, busy_s, decode_s, decode_ranks=decode_ranks) / engines,
        memory=memory,
        peak_bytes=max(memory.peak_bytes, beside),
        memory_bytes=machine.memory_bytes,
        patching=patching,
    )


def predict_denoise(setting: Setting, *, together: int = 1) -> StepTime:
    """All steps of all chunks, one after the other; those with guidance count as the first ones.

    Args:
        setting: Job, layout and machine.
        together: Clips whose windows share the steps where ranks split the layers.
    """
    job, total = setting.job, StepTime()
    guided_steps, steps = job.window_steps[0], sum(job.window_steps)
    exact = steps if setting.patching is None else min(steps, setting.patching.exact_steps)
    for guided, first, end in ((True, 0, guided_steps), (False, guided_steps, steps)):
        for patched, steps in ((False, min(end, exact) - first), (True, end - max(first, exact))):
            for window in job.windows if steps > 0 else ():
                step = predict_step(setting, window, guided=guided, patched=patched, together=together)
                total = total.plus(step, steps)
    for window in job.chunk_windows[: job.clean_passes]:
        total = total.plus(predict_step(setting, window, guided=job.branches > 1, patched=False, together=together), 1)
    return total


def predict_text_s(setting: Setting) -> float:
    """Seconds to encode the prompts; a released encoder passes through once, and offloaded blocks once after it."""
    job, table = setting.job, setting.table
    tokens = job.facts.text_tokens * job.branches
    flops = 2 * (
        job.sizes.text_encoder_parameters * tokens + job.sizes.image_encoder_parameters * job.sizes.image_tokens
    )
    copied = encoder_weights(setting) if setting.residency.encoder is Encoder.RELEASED else 0.0
    if setting.residency.blocks is Blocks.OFFLOADED:
        copied += setting.block_bytes * setting.stage_layers
    return (flops / table.text_tflops * PER_TFLOP_MS + copied / table.host_gb_s * PER_GB_MS) / 1000


def predict_decode_s(job: PlanJob, table: Calibration, ranks: int) -> float:
    """Seconds to decode the clip on `ranks` GPUs that share each picture."""
    flops = job.sizes.decoder_first_flops + (job.latent_frames - 1) * job.sizes.decoder_flops
    return flops * job.latent_cells / table.decode_tflops / table.decode_speedup.at(ranks) * PER_TFLOP_MS / 1000


def count_lanes(layout: Layout, machine: Machine, decode_ranks: int, *, lanes_per_decode: float) -> tuple[int, int]:
    """Lanes of one engine, and engines.

    Lanes fill the machine. Where GPUs only decode, an engine has as many lanes as its decode GPUs can follow: the rule
    that decode gets its share of the work in GPUs.

    Args:
        layout: Of one lane, or of an engine that somebody has chosen.
        machine: The GPUs.
        decode_ranks: GPUs of an engine that only decode.
        lanes_per_decode: Time of a lane over time of decode.
    """
    if layout.replica > 1:
        return layout.replica, 1
    if not decode_ranks:
        return machine.gpus // layout.lane, 1
    room = (machine.gpus - decode_ranks) // layout.lane
    lanes = max(1, min(room, int(lanes_per_decode)))
    return lanes, machine.gpus // (lanes * layout.lane + decode_ranks)


def total_s(job: PlanJob, before_s: float, decode_s: float, *, decode_ranks: int) -> float:
    """Seconds from prompt to last frame.

    On the same GPUs decode adds. On its own GPUs it runs beside the next chunk: what remains visible is the slower of
    the two and one chunk of the faster.
    """
    if not decode_ranks:
        return before_s + decode_s
    return max(before_s, decode_s) + min(before_s, decode_s) / len(job.chunks)


def between_clips_s(layout: Layout, before_s: float, decode_s: float, *, decode_ranks: int) -> float:
    """Seconds between two clips when more wait than run; lanes share the GPUs that only decode."""
    if not decode_ranks:
        return (before_s + decode_s) / layout.replica
    return max(before_s / layout.replica, decode_s)
