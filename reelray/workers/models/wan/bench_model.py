"""A Wan model as a benchmark runs it: of its true size, with weights drawn at random or loaded.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width, K context tokens.
"""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from reelray.proto.errors import UnsupportedError
from reelray.proto.layout import Layout
from reelray.proto.residency import Blocks, WeightShare
from reelray.workers.bench.case import BenchSource, Peer
from reelray.workers.memory.workspace import RememberedPast, fill_workspace
from reelray.workers.models.captured import choose_stages
from reelray.workers.models.sharding import Sharding
from reelray.workers.models.stages import Stages, WholeModel
from reelray.workers.models.wan.block_ops import choose_ops
from reelray.workers.models.wan.checkpoint import open_checkpoint
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.config_files import CLIP_TOKENS
from reelray.workers.models.wan.diffusers_peer import open_diffusers
from reelray.workers.models.wan.dtypes import choose_dtypes
from reelray.workers.models.wan.rope import Positions
from reelray.workers.models.wan.text_context import CrossContext
from reelray.workers.models.wan.transformer import WanTransformer
from reelray.workers.models.wan.vae import WanVae, WanVaeConfig
from reelray.workers.models.wan.weights import empty_transformer, views_to_fill
from reelray.workers.parallel.mesh import Mesh
from reelray.workers.parallel.sequence_sharding import SequenceSharding
from reelray.workers.parallel.token_split import split_evenly
from reelray.workers.parallel.xfuser_attention import Xfuser, XfuserAttention
from reelray.workers.samplers.guidance import Branch

TIMESTEP = 700.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnInputs:
    """What a forward is given.

    Args:
        latents_BCTHW: Noisy latents, condition channels included.
        timestep_B: One timestep.
        positions_T: Latent frames of the window.
        texts_BKC: Embeddings of each branch.
        contexts: Keys and values of each branch, as the engine keeps them for a request.
        image_BKC: Image embeddings of an i2v model.
        image: Their keys and values.
    """

    latents_BCTHW: Tensor
    timestep_B: Tensor
    positions_T: Tensor
    texts_BKC: tuple[Tensor, Tensor]
    contexts: tuple[CrossContext, CrossContext]
    image_BKC: Tensor | None
    image: CrossContext | None


class WanBenchModel:
    """Implements `BenchModel`.

    Args:
        transformer: The denoiser.
        vae: The latent decoder.
        text_tokens: Text slots.
    """

    def __init__(self, transformer: WanTransformer, vae: WanVae, *, text_tokens: int) -> None:
        self.transformer = transformer
        self.vae = vae
        self.device = transformer.device
        self.dtype = transformer.dtype
        self.vae_dtype = vae.post_quant_conv.weight.dtype
        self._text_tokens = text_tokens
        self._stages = choose_stages(self.device)

    def weights(self) -> Iterator[Tensor]:
        """See `BenchModel`; the decoder's are drawn on the CPU and so equal by themselves."""
        yield from (parameter.data for parameter in self.transformer.parameters())

    @torch.no_grad()
    def draw_inputs(self, latent_frames: int, rows: int, columns: int, *, first: int = 0, seed: int) -> DrawnInputs:
        """See `BenchModel`; every text slot is full."""
        config, generator = self.transformer.config, torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(self.device, self.dtype)

        texts = (draw(1, self._text_tokens, config.text_dim), draw(1, self._text_tokens, config.text_dim))
        image_BKC = None if config.image_dim is None else draw(1, CLIP_TOKENS, config.image_dim)
        prepare = self.transformer.prepare_text
        return DrawnInputs(
            latents_BCTHW=draw(1, config.in_channels, latent_frames, rows, columns),
            timestep_B=torch.tensor([TIMESTEP], device=self.device),
            positions_T=torch.arange(first, first + latent_frames, device=self.device),
            texts_BKC=texts,
            contexts=(prepare(texts[0], merge_padding=False), prepare(texts[1], merge_padding=False)),
            image_BKC=image_BKC,
            image=None if image_BKC is None else self.transformer.prepare_image(image_BKC),
        )

    def draw_past(self, tokens: int, window: int, *, ranks: int, index: int, seed: int) -> RememberedPast:
        """See `BenchModel`."""
        config, own = self.transformer.config, split_evenly(self.transformer.config.num_attention_heads, ranks)[index]
        shape = (1, tokens, config.num_attention_heads, config.attention_head_dim)
        generator = torch.Generator().manual_seed(seed)

        def draw() -> list[Tensor]:
            # Layers may be alike; drawing all on a CPU would take longer than the benchmark.
            drawn_BKND = torch.randn(shape, generator=generator)[:, :, own.start : own.stop]
            return [drawn_BKND.to(self.device, self.dtype)] * config.num_layers

        return fill_workspace(draw(), draw(), window=window, first_head=own.start)

    def predict(self, inputs: DrawnInputs, branch: Branch, sharding: Sharding) -> Tensor:
        """See `BenchModel`."""
        return self._evaluate(inputs, branch, sharding, self._stages)

    @torch.no_grad()
    def _evaluate(self, inputs: DrawnInputs, branch: Branch, sharding: Sharding, stages: Stages) -> Tensor:
        *_, frames, height, width = inputs.latents_BCTHW.shape
        _, patch_height, patch_width = self.transformer.config.patch_size
        forward = self.transformer.open_forward(
            inputs.latents_BCTHW,
            inputs.timestep_B,
            inputs.contexts[branch],
            positions=Positions(frames=inputs.positions_T),
            image=inputs.image,
            shard=sharding.shard(frames, (height // patch_height) * (width // patch_width)),
        )
        prediction: Tensor = stages.evaluate(forward)
        return prediction.float()

    def close(self) -> None:
        """See `BenchModel`."""
        self._stages.forget()

    def open_peer(self, name: str, ranks: int) -> Peer:
        """See `BenchModel`."""
        if importlib.util.find_spec(name) is None:
            raise UnsupportedError("not installed")
        if name == "diffusers":
            models = open_diffusers(self.transformer, ranks)
            alone, together = (_forward(model) for model in models)
            return Peer(alone=alone, together=together)
        assert name == "xfuser"
        xfuser = Xfuser.load()
        layout = Layout(ulysses=ranks)
        lane = Mesh.create([layout], self.device).lane(layout)
        # Its attention in our model: its own Wan attends padding, which is another result.
        sharding = SequenceSharding(lane, make_attention=partial(XfuserAttention, xfuser=xfuser))
        run = partial(self._evaluate, branch=Branch.CONDITIONAL, sharding=sharding, stages=WholeModel())
        return Peer(alone=None, together=run)


def open_bench_model(source: BenchSource, device: torch.device, *, seed: int) -> WanBenchModel:
    """Build the model of a source, with weights drawn from `seed` or loaded from its folder.

    Args:
        source: The model.
        device: Where it goes; a GPU gets bfloat16, a CPU float32.
        seed: Of random weights.

    Raises:
        CheckpointError: The folder is not usable.
    """
    tokens = source.facts.text_tokens
    if source.folder is not None:
        parts = open_checkpoint(source.folder, device=device).parts
        return WanBenchModel(parts.transformer, parts.vae, text_tokens=tokens)
    dtypes = choose_dtypes(device, None, None)
    transformer = draw_transformer(WanConfig.from_diffusers(source.transformer), device, dtypes.transformer, seed=seed)
    transformer.use_ops(choose_ops(device))
    vae = draw_vae(WanVaeConfig.from_diffusers(source.vae), seed=seed).to_inference(device, dtypes.vae)
    return WanBenchModel(transformer, vae, text_tokens=tokens)


def draw_transformer(
    config: WanConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    seed: int,
    blocks: Blocks = Blocks.RESIDENT,
    share: WeightShare | None = None,
) -> WanTransformer:
    """Random weights of realistic scale: gains near one, matrices by fan-in. The same wherever the blocks are."""
    transformer = empty_transformer(config, device, dtype, blocks=blocks, share=share)
    generator = torch.Generator(device).manual_seed(seed)
    for name, view in views_to_fill(transformer):
        drawn = view if view.device.type == device.type else torch.empty(view.shape, dtype=view.dtype, device=device)
        if view.ndim == 1 and "norm" in name and name.endswith("weight"):
            drawn.normal_(1, 0.05, generator=generator)
        else:
            drawn.normal_(0, 0.02 if view.ndim == 1 else view[0].numel() ** -0.5, generator=generator)
        if drawn is not view:
            view.copy_(drawn)
    return transformer.eval().requires_grad_(requires_grad=False)


def draw_vae(config: WanVaeConfig, *, seed: int) -> WanVae:
    """Random weights on the CPU: the same on every rank, whatever its device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = WanVae(config)
        for name, parameter in vae.named_parameters():
            if name.endswith("gamma"):
                parameter.data += 0.1 * torch.randn_like(parameter)
    return vae


def _forward(model: torch.nn.Module) -> Callable[[DrawnInputs], Tensor]:
    @torch.no_grad()
    def run(inputs: DrawnInputs) -> Tensor:
        # Context parallelism refuses the output class, so a tuple is asked for.
        found: tuple[Tensor] = model(
            hidden_states=inputs.latents_BCTHW,
            timestep=inputs.timestep_B,
            encoder_hidden_states=inputs.texts_BKC[Branch.CONDITIONAL],
            encoder_hidden_states_image=inputs.image_BKC,
            return_dict=False,
        )
        return found[0]

    return run
