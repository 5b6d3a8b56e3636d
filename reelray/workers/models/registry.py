"""Model families by the name that manifests use. Importing this imports no model and no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from reelray.proto.residency import Networks

if TYPE_CHECKING:
    import torch

    from reelray.proto.model_facts import ModelFacts
    from reelray.proto.model_sizes import ModelSizes
    from reelray.proto.recipe import Recipe
    from reelray.proto.residency import Residency, WeightShare
    from reelray.workers.bench.case import BenchModel, BenchSource
    from reelray.workers.models.api import VideoModel
    from reelray.workers.models.wan.description import CheckpointDescription
    from reelray.workers.recipes.presets import Preset


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """How checkpoints of one family are described and opened.

    Args:
        describe: Reads configurations and file headers; quick, without torch.
        measure: Tells the sizes of the networks of a checkpoint, as quickly.
        count_tokens: Counts the tokens of a prompt as the text encoder of a checkpoint reads it.
        check_preview: Refuses files that cannot be a preview decoder.
        describe_preset: Tells geometry and sizes of a preset's model.
        open: Loads the weights.
        preset_source: Says what a benchmark of a preset's model measures.
        checkpoint_source: Says what a benchmark of a checkpoint measures.
        open_bench: Builds what a benchmark measures.
    """

    describe: "Callable[[Path], CheckpointDescription]"
    measure: "Callable[[Path], ModelSizes]"
    count_tokens: "Callable[[Path, str], int]"
    check_preview: "Callable[[Path], None]"
    describe_preset: "Callable[[Preset], tuple[ModelFacts, ModelSizes]]"
    open: "Callable[..., VideoModel]"
    preset_source: "Callable[..., BenchSource]"
    checkpoint_source: "Callable[[Path], BenchSource]"
    open_bench: "Callable[..., BenchModel]"


def _describe_wan(folder: Path) -> "CheckpointDescription":
    from reelray.workers.models.wan.description import describe_checkpoint  # noqa: PLC0415 - loaded when used

    return describe_checkpoint(folder)


def _measure_wan(folder: Path) -> "ModelSizes":
    from reelray.workers.models.wan.sizes import measure_checkpoint  # noqa: PLC0415 - loaded when used

    return measure_checkpoint(folder)


def _count_wan_tokens(folder: Path, prompt: str) -> int:
    from reelray.workers.models.wan.layout import find_layout  # noqa: PLC0415 - loaded when used
    from reelray.workers.models.wan.text import count_tokens  # noqa: PLC0415 - pulls in torch

    return count_tokens(find_layout(folder).tokenizer, prompt)


def _check_wan_preview(file: Path) -> None:
    from reelray.workers.models.wan.taehv.files import check_taehv_file  # noqa: PLC0415 - loaded when used

    check_taehv_file(file)


def _describe_wan_preset(preset: "Preset") -> "tuple[ModelFacts, ModelSizes]":
    from reelray.workers.models.wan.sizes import describe_preset  # noqa: PLC0415 - loaded when used

    return describe_preset(preset)


def _open_wan(folder: Path, **wishes: object) -> "VideoModel":
    from reelray.workers.models.wan.checkpoint import open_checkpoint  # noqa: PLC0415 - pulls in torch

    return open_checkpoint(folder, **wishes)  # type: ignore[arg-type]


def _wan_preset_source(preset: "Preset", **wishes: bool) -> "BenchSource":
    from reelray.workers.models.wan.bench_source import source_of_preset  # noqa: PLC0415 - loaded when used

    return source_of_preset(preset, **wishes)


def _wan_checkpoint_source(folder: Path) -> "BenchSource":
    from reelray.workers.models.wan.bench_source import source_of_checkpoint  # noqa: PLC0415 - loaded when used

    return source_of_checkpoint(folder)


def _open_wan_bench(source: "BenchSource", device: "torch.device", *, seed: int) -> "BenchModel":
    from reelray.workers.models.wan.bench_model import open_bench_model  # noqa: PLC0415 - pulls in torch

    return open_bench_model(source, device, seed=seed)


_WAN = Family(
    describe=_describe_wan,
    measure=_measure_wan,
    count_tokens=_count_wan_tokens,
    check_preview=_check_wan_preview,
    describe_preset=_describe_wan_preset,
    open=_open_wan,
    preset_source=_wan_preset_source,
    checkpoint_source=_wan_checkpoint_source,
    open_bench=_open_wan_bench,
)
FAMILIES: Mapping[str, Family] = MappingProxyType({"wan": _WAN})


def describe_checkpoint(folder: Path) -> "CheckpointDescription":
    """Describe a checkpoint without loading it.

    Raises:
        UnknownModelError: There is no such folder.
        CheckpointError: The folder is not a checkpoint of a known family, or is damaged.
    """
    return FAMILIES["wan"].describe(folder)


def measure_checkpoint(folder: Path) -> "ModelSizes":
    """Tell the sizes of a checkpoint's networks without loading them.

    Raises:
        UnknownModelError: There is no such folder.
        CheckpointError: The folder is not a checkpoint of a known family, or is damaged.
    """
    return FAMILIES["wan"].measure(folder)


def count_tokens(folder: Path, prompt: str) -> int:
    """Count the tokens of a prompt without loading a checkpoint's weights.

    Raises:
        CheckpointError: The folder is not a checkpoint of a known family, or its tokenizer is damaged.
    """
    return FAMILIES["wan"].count_tokens(folder, prompt)


def check_preview(family: str, file: Path) -> None:
    """Refuse a file that cannot be a preview decoder of a family's models.

    Raises:
        WeightsError: It is missing, or has another ending.
    """
    FAMILIES[family].check_preview(file)


def describe_preset(preset: "Preset") -> "tuple[ModelFacts, ModelSizes]":
    """Geometry and sizes of the model that a preset is made for; its weights need not be here."""
    return FAMILIES[preset.recipe.model].describe_preset(preset)


def open_checkpoint(
    folder: Path,
    *,
    device: "torch.device | str",
    dtype: "torch.dtype | None" = None,
    vae_dtype: "torch.dtype | None" = None,
    recipe: "Recipe | None" = None,
    compiled: bool = False,
    layers: range | None = None,
    residency: "Residency | None" = None,
    share: "WeightShare | None" = None,
    networks: Networks = Networks.ALL,
    preview: Path | None = None,
) -> "VideoModel":
    """Load a checkpoint of any family.

    Args:
        folder: The checkpoint.
        device: Where the model computes.
        dtype: Dtype of the networks; None chooses by device.
        vae_dtype: Dtype of the latent decoder; None follows `dtype`.
        recipe: Instead of the folder's own.
        compiled: Compile what can be; the first request of a new size then waits for the compiler.
        layers: Layers of the denoiser to load, where other ranks have the others; None means all.
        residency: Where the weights are while they do not compute; all on the device by default.
        share: What this rank keeps of sharded weights.
        networks: What is loaded; the rest is checked all the same, and named by the same digest.
        preview: File of a preview decoder; None takes the checkpoint's own, if it has one.

    Raises:
        CheckpointError: As `describe_checkpoint`.
        InputError: Weights are to be sharded, and no other rank has them.
    """
    family = FAMILIES[recipe.model if recipe else "wan"]
    return family.open(
        folder,
        device=device,
        dtype=dtype,
        vae_dtype=vae_dtype,
        recipe=recipe,
        compiled=compiled,
        layers=layers,
        residency=residency,
        share=share,
        networks=networks,
        preview=preview,
    )


def preset_source(preset: "Preset", *, tiny: bool = False) -> "BenchSource":
    """What a benchmark of a preset's model measures; its weights need not be here.

    Args:
        preset: The preset.
        tiny: Shrink every network, so that a CPU measures it in a moment.
    """
    return FAMILIES[preset.recipe.model].preset_source(preset, tiny=tiny)


def checkpoint_source(folder: Path) -> "BenchSource":
    """What a benchmark of a checkpoint measures.

    Raises:
        CheckpointError: As `describe_checkpoint`.
    """
    return FAMILIES["wan"].checkpoint_source(folder)


def open_bench_model(source: "BenchSource", device: "torch.device", *, seed: int) -> "BenchModel":
    """Build what a benchmark measures, on a device.

    Args:
        source: The model.
        device: Where it goes.
        seed: Of weights that are drawn.

    Raises:
        CheckpointError: The folder of the source is not usable.
    """
    return FAMILIES[source.family].open_bench(source, device, seed=seed)
