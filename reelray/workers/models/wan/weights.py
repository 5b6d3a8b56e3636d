"""Loading and saving a Wan transformer: every tensor goes from its file to its final place, once."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reelray.proto.errors import WeightsError
from reelray.proto.residency import Blocks, WeightShare
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.config_files import config_of_shapes, read_config, sizes_of_shapes
from reelray.workers.models.wan.key_map import canonical_name, checkpoint_views, source_names
from reelray.workers.models.wan.transformer import WanTransformer
from reelray.workers.residency.choice import place_blocks
from reelray.workers.weights.lora import LoraFile, LowRankUpdate, read_lora
from reelray.workers.weights.safetensors_file import SafetensorsSource, write_safetensors
from reelray.workers.weights.safetensors_header import read_shard_index
from reelray.workers.weights.source import TensorSource, check_names
from reelray.workers.weights.torch_file import TorchSource

STEM = "diffusion_pytorch_model"
INDEX = f"{STEM}.safetensors.index.json"
PICKLES = {".pt", ".pth"}
# What stays float32 in a half-precision model: diffusers' choice for this family.
FLOAT_PARTS = ("time_embedder", "scale_shift_table", "norm1.", "norm2.", "norm3.")


def load_transformer(
    path: Path,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    weights_key: str | None = None,
    lora: LoraFile | None = None,
    config: WanConfig | None = None,
    layers: range | None = None,
    blocks: Blocks = Blocks.RESIDENT,
    share: WeightShare | None = None,
) -> WanTransformer:
    """Load a transformer in evaluation mode.

    Takes diffusers folders, original Wan folders, and `.pt` files of the Self-Forcing family. Memory grows by the
    model's size and one tensor; that of the device by what is to stay there and one tensor.

    Args:
        path: Folder with `config.json` and weights, or a weight file.
        device: Where it computes.
        dtype: Dtype of the weights; timestep embedder, modulation tables and LayerNorms stay float32.
        weights_key: Sub-dict of a `.pt` file: ``generator``, ``generator_ema`` or ``model``.
        lora: Update to merge while reading.
        config: Size of the model; by default from `config.json`, or from the shapes where there is none.
        layers: The only ones to load; see `WanTransformer.keep_layers`.
        blocks: Where the blocks are while they do not compute.
        share: What this rank keeps of sharded blocks.

    Raises:
        WeightsError: A file is missing or damaged, or a name or shape does not fit.
        InputError: The blocks are to be sharded, and no other rank has them.
        ValueError: The model has no such layers.
    """
    with open_weights(path, weights_key) as source:
        names = source_names(source.tensors, str(path))
        found = {name: source.tensors[original] for name, original in names.items()}
        if config is None:
            config = read_config(path) or config_of_shapes({name: facts.shape for name, facts in found.items()}, path)
        transformer = empty_transformer(config, device, dtype, layers, blocks=blocks, share=share)
        views = checkpoint_views(transformer)
        elsewhere = _names_elsewhere(found, transformer)
        found = {name: facts for name, facts in found.items() if name not in elsewhere}
        check_names({name: tuple(view.shape) for name, view in views.items()}, found, names, str(path))
        updates = read_lora(lora, canonical_name) if lora else {}
        updates = {name: update for name, update in updates.items() if name not in elsewhere}
        for name in updates:
            if name not in views:
                raise WeightsError(f"{updates[name].file}: LoRA of {name}, which is not part of this model")
            updates[name].check_fit(name, tuple(views[name].shape))
        for name, view in views_to_fill(transformer):
            _fill(source, names[name], view, updates.get(name), transformer.device)
    return transformer.eval()


def check_architecture(path: Path, weights_key: str | None, config: WanConfig, *, base: Path) -> None:
    """Compare the sizes of weights with those of the checkpoint that they shall go into, before any is read.

    Args:
        path: As for `load_transformer`.
        weights_key: As for `load_transformer`.
        config: Size of the base's transformer.
        base: What to call the base in an error.

    Raises:
        WeightsError: A file is missing or damaged, or the sizes differ; all differences are named.
    """
    with open_weights(path, weights_key) as source:
        names = source_names(source.tensors, str(path))
        sizes = sizes_of_shapes({name: source.tensors[original].shape for name, original in names.items()}, path)
    wanted = {name: getattr(config, name) for name in sizes}
    wrong = [f"{name} {sizes[name]} instead of {wanted[name]}" for name in sizes if sizes[name] != wanted[name]]
    if wrong:
        raise WeightsError(f"{path}: is another architecture than its base {base}: {', '.join(wrong)}")


def open_weights(path: Path, weights_key: str | None = None) -> TensorSource:
    """Open the weight files of a folder, or one weight file.

    Raises:
        WeightsError: There are none, or it is not clear which.
    """
    if path.suffix in PICKLES:
        return TorchSource(path, weights_key)
    if path.suffix == ".safetensors":
        return SafetensorsSource([path])
    if not path.is_dir():
        raise WeightsError(f"{path}: no such folder of weights")
    indexes = sorted(path.glob("*.safetensors.index.json"))
    if indexes:
        return SafetensorsSource(read_shard_index(indexes[0]))
    files = sorted(path.glob("*.safetensors"))
    if (path / f"{STEM}.safetensors") in files:
        files = [path / f"{STEM}.safetensors"]
    pickles = [] if files else sorted(file for file in path.iterdir() if file.suffix in PICKLES)
    if len(pickles) == 1:
        return TorchSource(pickles[0], weights_key)
    if not files:
        held = f"{len(pickles)} .pt files; name one" if pickles else "no .safetensors or .pt file"
        raise WeightsError(f"{path}: holds {held}")
    return SafetensorsSource(files)


def empty_transformer(
    config: WanConfig,
    device: torch.device | str,
    dtype: torch.dtype,
    layers: range | None = None,
    *,
    blocks: Blocks = Blocks.RESIDENT,
    share: WeightShare | None = None,
) -> WanTransformer:
    """Build a transformer whose weights, or those of some layers, are allocated in place and dtype but not written.

    Those of blocks are written through `WanTransformer.source`.
    """
    device = torch.device(device)
    with torch.device("meta"):
        transformer = WanTransformer(config)
    if layers is not None:
        transformer.keep_layers(layers)
    for prefix, module in transformer.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            keeps_float = any(part in f"{prefix}.{name}" for part in FLOAT_PARTS)
            kept = torch.float32 if keeps_float and dtype in {torch.bfloat16, torch.float16} else dtype
            elsewhere = blocks is not Blocks.RESIDENT and prefix.startswith("blocks.")
            empty = torch.empty(parameter.shape, device="meta" if elsewhere else device, dtype=kept)
            module.register_parameter(name, nn.Parameter(empty))
    transformer.rope.fill(device)
    if blocks is not Blocks.RESIDENT:
        transformer.source = place_blocks(transformer.blocks, transformer.layers, blocks, device, share)
    return transformer


def save_transformer(transformer: WanTransformer, folder: Path, *, max_shard_bytes: int = 10 << 30) -> None:
    """Write a folder that diffusers' `WanTransformer3DModel.from_pretrained` and `load_transformer` read.

    Args:
        transformer: Any device and dtype.
        folder: Created when missing.
        max_shard_bytes: Largest weight file; more are written with an index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, view in checkpoint_views(transformer).items():
        if shards[-1] and size + view.nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = view
        size += view.nbytes
    if len(shards) == 1:
        write_safetensors(folder / f"{STEM}.safetensors", shards[0])
    else:
        _write_shards(folder, shards)
    _write_json(folder / "config.json", transformer.config.to_diffusers())


def _names_elsewhere(names: Iterable[str], transformer: WanTransformer) -> set[str]:
    """Those of layers that the model has and this transformer does not keep."""
    found = set()
    for name in names:
        layer = re.match(r"blocks\.(\d+)\.", name)
        number = -1 if layer is None else int(layer[1])
        if 0 <= number < transformer.config.num_layers and number not in transformer.layers:
            found.add(name)
    return found


def views_to_fill(transformer: WanTransformer) -> Iterator[tuple[str, Tensor]]:
    """Every tensor to be written, under its diffusers name, wherever the blocks are; take all of them.

    What stands in a block counts when the first tensor of the next one is asked for.
    """
    views = checkpoint_views(transformer)
    yield from ((name, view) for name, view in views.items() if not name.startswith("blocks."))
    for layer in transformer.layers:
        with transformer.source.write(layer) as block:
            yield from ((f"blocks.{layer}.{name}", view) for name, view in checkpoint_views(block).items())


def _fill(
    source: TensorSource, original: str, view: Tensor, update: LowRankUpdate | None, device: torch.device
) -> None:
    if update is None:
        source.read(original, view)
        return
    # The sum is rounded once: merge in float32, then convert. On the device even for weights that lie elsewhere: the
    # last bit must not depend on where.
    weight = torch.empty(view.shape, dtype=torch.float32, device=device)
    source.read(original, weight)
    update.add_to(weight)
    view.copy_(weight)


def _write_shards(folder: Path, shards: list[dict[str, Tensor]]) -> None:
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"{STEM}-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(view.nbytes for shard in shards for view in shard.values())
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n")
