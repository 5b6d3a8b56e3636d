"""diffusers' transformer with our weights, alone and under its context parallelism, as a contender of benchmarks.

diffusers is imported when this is called. On CUDA both run as is fastest there: cuDNN attention, repeated blocks
compiled.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn

from reelray.workers.models.wan.key_map import checkpoint_views
from reelray.workers.models.wan.transformer import VERSIONS, WanTransformer


def open_diffusers(ours: WanTransformer, ranks: int) -> tuple[nn.Module, nn.Module]:
    """Build diffusers' module twice on one copy of our weights; every rank calls it.

    Args:
        ours: Weights and device.
        ranks: Ranks of the world.

    Returns:
        A module for one rank, and one whose forward all ranks call together (Ulysses over all of them).
    """
    from diffusers import ContextParallelConfig  # noqa: PLC0415  a benchmark's dependency

    weights = {name: nn.Parameter(view.clone(), requires_grad=False) for name, view in checkpoint_views(ours).items()}
    alone, together = _build(ours, weights), _build(ours, weights)
    on_cuda = ours.device.type == "cuda"
    if on_cuda:
        # Before parallelism: it asks whether the backend can do it.
        alone.set_attention_backend("_native_cudnn")
        together.set_attention_backend("_native_cudnn")
    with contextlib.nullcontext() if on_cuda else _pretend_accelerator():
        together.enable_parallelism(config=ContextParallelConfig(ulysses_degree=ranks))
    if on_cuda:
        dynamo = torch._dynamo.config  # noqa: SLF001  (torch 2.11 has no argument for it)
        dynamo.recompile_limit = max(dynamo.recompile_limit, VERSIONS)
        alone.compile_repeated_blocks(fullgraph=True)
        # Its hooks may break the graph around the blocks.
        together.compile_repeated_blocks()
    return alone, together


def _build(ours: WanTransformer, weights: dict[str, nn.Parameter]) -> Any:
    from diffusers import WanTransformer3DModel  # noqa: PLC0415  a benchmark's dependency

    config = ours.config
    with torch.device("meta"):
        theirs = WanTransformer3DModel(**{k: v for k, v in config.to_diffusers().items() if k != "_class_name"})
    for name, _ in list(theirs.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        theirs.get_submodule(owner).register_parameter(leaf, weights[name])
    # Its buffers were made on the meta device.
    theirs.rope = type(theirs.rope)(config.attention_head_dim, config.patch_size, config.rope_max_seq_len).to(
        ours.device
    )
    return theirs.eval()


@contextlib.contextmanager
def _pretend_accelerator() -> Iterator[None]:
    """Count one device: diffusers divides by the number of accelerators, which on a CPU is 0."""
    with mock.patch("torch.accelerator.device_count", return_value=1):
        yield
