"""How many bytes the fullest GPU of a lane holds, in each stage of a clip.

Counted are tensors that live at once. Activations of one layer: at its attention the residual stream, q, k, v before
and after the exchange and the output (8 widths per token), at its feed-forward the stream, its norm and the hidden
values before and after the activation; each stage of the clip also holds the latents in float32, a few times over. A
rank keeps the keys and values of its share of heads or tokens for every frame that later chunks attend, for each branch
it runs; with patches also those of the step before, of every token, in its layers. Forwards of up to `GRAPH_TOKENS`
tokens on a rank are recorded where all layers are here and stay: what they need at once they keep for good, once for
all of them, and a window of another size comes on top before it is recorded. Of a released encoder two blocks are there
at a time, and its table of tokens never is. These are counts, not measurements; the constants of process and groups are
in the table.
"""

import math
from dataclasses import dataclass, fields

from reelray.proto.graphs import GRAPH_TOKENS
from reelray.proto.memory_rule import Commit
from reelray.proto.residency import Blocks, Encoder
from reelray.proto.storage import SCALE_BYTES, Storage
from reelray.scheduler.limits import EngineLimits
from reelray.scheduler.plan.job import PlanJob, Window
from reelray.scheduler.plan.residency import BLOCKS_IN_FLIGHT, sharing_ranks
from reelray.scheduler.plan.step_time import FP32_BYTES, ULYSSES_EXCHANGES, Setting, window_share

ATTENTION_WIDTHS = 8
LATENT_COPIES = 6
RING_BUFFERS = 2
ENCODER_BLOCKS = 24
"""Of UMT5-XXL; CLIP has more and smaller ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryUse:
    """Bytes on the fullest GPU that denoises.

    Args:
        context: The process itself and its communication groups.
        blocks: Weights of the transformer, as far as they stay or pass through.
        encoder: Encoders of text and image while they are there.
        decoder: Weights and activations of the latent decoder, on a GPU that also denoises.
        activations: Of one layer.
        memory: Keys and values of text and of earlier chunks.
        latents: The clip and its sampler state.
        buffers: Keys and values on their way around a ring.
        rooms: Heads and tokens in memory that ranks share; in a step they are among the activations, but they stay.
        stale: Keys and values that one step leaves for the patches of the next.
        graphs: What recorded forwards keep.
        encoder_leaves: Whether the encoder is gone when the first step begins.
    """

    context: float
    blocks: float
    encoder: float
    decoder: float
    activations: float
    memory: float
    latents: float
    buffers: float
    rooms: float
    stale: float
    graphs: float
    encoder_leaves: bool

    @property
    def parts(self) -> dict[str, float]:
        """Bytes by part."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "encoder_leaves"}

    @property
    def stages(self) -> dict[str, float]:
        """Bytes while text is encoded, while the clip is denoised and while it is decoded."""
        base = self.context + self.latents
        stays = 0.0 if self.encoder_leaves else self.encoder
        kept = base + self.blocks + stays + self.memory + self.graphs
        return {
            "text": base + self.encoder + self.blocks + self.rooms,
            "denoise": kept + self.activations + self.buffers + self.stale,
            "decode": kept + self.decoder + self.rooms,
        }

    @property
    def peak_bytes(self) -> float:
        """Bytes of the fullest stage."""
        return max(self.stages.values())


def predict_memory(setting: Setting, *, decode_ranks: int) -> MemoryUse:
    """Predict the bytes of the fullest GPU.

    Args:
        setting: Job, layout and residency.
        decode_ranks: GPUs of their own that decode; 0 when the lane decodes.
    """
    job, layout, table = setting.job, setting.layout, setting.table
    groups = sum(degree > 1 for degree in (layout.cfg, layout.pipe, layout.ring, layout.ulysses))
    context = table.context_bytes + groups * table.group_bytes
    leaves = setting.residency.encoder is Encoder.RELEASED
    latents = LATENT_COPIES * FP32_BYTES * job.latent_cells * job.facts.latent_channels * job.latent_frames
    return MemoryUse(
        context=context,
        blocks=block_weights(setting),
        encoder=encoder_weights(setting) * (BLOCKS_IN_FLIGHT / ENCODER_BLOCKS if leaves else 1),
        decoder=condition_weights(setting) if decode_ranks else decode_bytes(setting, layout.lane),
        activations=activation_bytes(setting),
        memory=kept_bytes(setting),
        latents=latents,
        buffers=ring_bytes(setting),
        rooms=room_bytes(setting),
        stale=stale_bytes(setting),
        graphs=graph_bytes(setting),
        encoder_leaves=leaves,
    )


def encoder_weights(setting: Setting) -> float:
    """Bytes of the encoders of text and image."""
    sizes = setting.job.sizes
    return (sizes.text_encoder_parameters + sizes.image_encoder_parameters) * setting.job.value_bytes


def condition_weights(setting: Setting) -> float:
    """Bytes of what a GPU that does not decode keeps of the decoder: whoever takes a first frame has its encoder."""
    sizes = setting.job.sizes
    return sizes.decoder_parameters * setting.job.value_bytes if sizes.image_encoder_parameters else 0.0


def block_weights(setting: Setting) -> float:
    """Bytes of the transformer on one rank."""
    held = setting.block_bytes * setting.stage_layers
    in_flight = min(BLOCKS_IN_FLIGHT * setting.block_bytes, held)
    match setting.residency.blocks:
        case Blocks.OFFLOADED:
            return in_flight
        case Blocks.SHARDED:
            return held / sharing_ranks(setting.layout) + in_flight
        case _:
            return held


def activation_bytes(setting: Setting) -> float:
    """Bytes of the fullest moment of one layer, over all windows."""
    return max(layer_bytes(setting, window) for window in setting.job.windows)


def layer_bytes(setting: Setting, window: Window) -> float:
    """Bytes of the fullest moment of one layer."""
    job = setting.job
    widths = max(ATTENTION_WIDTHS * job.facts.dim, 2 * (job.facts.dim + job.sizes.ffn_dim))
    return window_share(setting, window) * widths * job.value_bytes


def graph_bytes(setting: Setting) -> float:
    """Bytes of the pool that recorded forwards share; see `reelray/workers/models/captured.py`."""
    if setting.layout.pipe > 1 or setting.residency.blocks is not Blocks.RESIDENT:
        return 0.0
    recorded = [window for window in setting.job.windows if window_share(setting, window) <= GRAPH_TOKENS]
    return setting.table.graph_pool_factor * max((layer_bytes(setting, window) for window in recorded), default=0.0)


def stale_bytes(setting: Setting) -> float:
    """Bytes of keys and values of the step before."""
    job, layout = setting.job, setting.layout
    if setting.patching is None:
        return 0.0
    branches = math.ceil(job.branches / layout.cfg)
    tokens = max(window_share(setting, window) for window in job.windows)
    return 2 * setting.stage_layers * branches * tokens * job.facts.dim * job.value_bytes


def kept_bytes(setting: Setting) -> float:
    """Bytes of keys and values that outlive a forward: of the text, in pages, and in the workspace of one window.

    A workspace holds what a window attends, and what it leaves stands beside it until pages take it.
    """
    job, layout = setting.job, setting.layout
    branches = math.ceil(job.branches / layout.cfg)
    context = job.facts.text_tokens + job.sizes.image_tokens
    pages = workspace = 0.0
    if job.memory is not None:
        attended = max(window.attended for window in job.windows)
        own = max(window.tokens for window in job.chunk_windows)  # whatever shares its forwards, it is remembered alone
        held = job.facts.tokens(min(job.latent_frames, job.memory.held), job.width, job.height)
        levels = job.steps if job.memory.commit is Commit.EVERY_STEP else 1
        stored = stored_share(job, job.memory.storage)
        pages, workspace = levels * stored * held / layout.ulysses, levels * (attended + own) / layout.ulysses
    # Every rank remembers both branches of guidance, whichever it evaluates in a step.
    tokens = branches * context + job.branches * (pages + workspace)
    return 2 * setting.stage_layers * tokens * job.facts.dim * job.value_bytes


def stored_share(job: PlanJob, storage: Storage) -> float:
    """Bytes that pages take of a token, as a share of those that the model made."""
    width = job.facts.dim / job.sizes.heads
    return 1.0 if storage is Storage.EXACT else (width + SCALE_BYTES) / (width * job.value_bytes)


def ring_bytes(setting: Setting) -> float:
    """Bytes of keys and values on their way, and of the float32 partial result."""
    job, layout = setting.job, setting.layout
    if layout.ring == 1:
        return 0.0
    most = max(window.tokens for window in job.windows)
    return (RING_BUFFERS * 2 * job.value_bytes + FP32_BYTES) * most / layout.sequence * job.facts.dim


def room_bytes(setting: Setting) -> float:
    """Bytes of memory that ranks share where they exchange heads through it; see `reelray/kernels/to_peers`."""
    job, layout = setting.job, setting.layout
    if layout.ulysses == 1 or setting.link not in setting.table.ulysses_ms:
        return 0.0
    most = max(window_share(setting, window) for window in job.windows)
    return ULYSSES_EXCHANGES * most * job.facts.dim * job.value_bytes


def decode_bytes(setting: Setting, ranks: int) -> float:
    """Bytes of the decoder on one of the `ranks` GPUs that share each picture."""
    job = setting.job
    piece = EngineLimits().piece_latent_frames(job.facts, width=job.width, height=job.height)
    per_cell = job.sizes.decoder_state_bytes + piece * job.sizes.decoder_frame_bytes
    return job.sizes.decoder_parameters * job.value_bytes + per_cell * job.latent_cells / ranks


def decode_alone_bytes(setting: Setting, ranks: int) -> float:
    """Bytes of a GPU that only decodes and is never lent: it loads the decoder alone."""
    return setting.table.context_bytes + decode_bytes(setting, ranks)
