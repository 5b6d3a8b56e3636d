"""Where the parts of a Wan checkpoint lie: in diffusers' folders, or in the files of the original release.

A manifest may take the parts of such a checkpoint and replace its transformer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reelray.proto.errors import CheckpointError, UnknownModelError
from reelray.workers.models.wan.composition import compose_layout
from reelray.workers.models.wan.taehv.files import find_taehv_file
from reelray.workers.models.weight_files import find_weight_files
from reelray.workers.recipes.manifest import FILE_NAME, read_weights
from reelray.workers.recipes.presets import read_json
from reelray.workers.recipes.weights_section import WeightsSection

ORIGINAL_TEXT = "models_t5_umt5-xxl-enc-bf16.pth"
ORIGINAL_VAE = "Wan2.1_VAE.pth"
ORIGINAL_CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
ORIGINAL_TOKENIZER = "google/umt5-xxl"
TRANSFORMER_CLASS = "WanTransformer3DModel"
FORCED_CLASS = "SkyReelsV2Transformer3DModel"
"""The same network, whose pipeline tells it a timestep for each latent frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Files of a checkpoint, all of them present.

    Args:
        kind: Whose layout it is; that of the base when there is one.
        folder: The checkpoint.
        transformer: Folder of the transformer's `config.json`.
        transformer_config: Its content.
        weights: Weight files by component: transformer, vae, text_encoder, image_encoder; lora where one is merged.
        tokenizer: Folder of the tokenizer.
        base: Complete checkpoint that provides what the manifest does not name.
        section: What the manifest names.
    """

    kind: Literal["diffusers", "original"]
    folder: Path
    transformer: Path
    transformer_config: Mapping[str, Any]
    weights: Mapping[str, tuple[Path, ...]]
    tokenizer: Path
    base: "Layout | None" = None
    section: WeightsSection | None = None

    @property
    def name(self) -> str:
        """``diffusers``, ``original``, or ``manifest`` for one that a manifest puts together."""
        return self.kind if self.base is None else "manifest"

    @property
    def complete(self) -> "Layout":
        """The folder with a configuration for every part: the base, or this one."""
        return self.base or self

    @property
    def preview(self) -> Path | None:
        """File of a tiny decoder, of this folder or of its base; None where there is none.

        Raises:
            CheckpointError: There are several.
        """
        own = find_taehv_file(self.folder)
        return own if own is not None or self.base is None else find_taehv_file(self.base.folder)

    @property
    def task(self) -> str:
        """``i2v`` when the transformer attends an image, else ``t2v``."""
        config = self.transformer_config
        has_image = config.get("image_dim") is not None or config.get("model_type", "t2v") != "t2v"
        return "i2v" if has_image else "t2v"

    @property
    def files(self) -> list[Path]:
        """Every file that decides what a video looks like: weights, configurations, tokenizer."""
        files = {file for part in self.weights.values() for file in part}
        folders = {self.transformer, self.tokenizer} | {file.parent for file in files}
        configs = {file for folder in folders for file in folder.glob("*.json")}
        return sorted(files | configs | set(self.tokenizer.glob("*.model")))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weight files."""
        return sum(file.stat().st_size for part in self.weights.values() for file in part)


def find_layout(folder: Path) -> Layout:
    """Look a checkpoint folder over.

    Raises:
        UnknownModelError: There is no such folder.
        CheckpointError: It is not a Wan2.1 checkpoint, or a part of it is missing.
        ManifestError: The manifest's `weights` section is wrong, or leads nowhere.
        WeightsError: A weight file is missing.
    """
    if not folder.exists():
        raise UnknownModelError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: is a file; a checkpoint folder is needed")
    section = read_weights(folder / FILE_NAME)
    return _find_complete(folder) if section is None else compose_layout(folder, section, _find_complete)


def _find_complete(folder: Path) -> Layout:
    if (folder / "transformer").is_dir() or (folder / "model_index.json").is_file():
        return _find_diffusers(folder)
    if (folder / "config.json").is_file():
        return _find_original(folder)
    raise CheckpointError(
        f"{folder}: is not a checkpoint; it needs transformer/, vae/, text_encoder/ and tokenizer/ (diffusers layout), "
        f"or config.json, {ORIGINAL_VAE} and {ORIGINAL_TEXT} (original Wan layout), or a {FILE_NAME} whose `weights` "
        "name a base"
    )


def _find_diffusers(folder: Path) -> Layout:
    _refuse_other_pipelines(folder)
    config = _read_config(folder / "transformer")
    if config.get("_class_name") not in {TRANSFORMER_CLASS, FORCED_CLASS}:
        raise CheckpointError(
            f"{folder / 'transformer' / 'config.json'}: `_class_name` is {config.get('_class_name')}; "
            f"served: {TRANSFORMER_CLASS}, {FORCED_CLASS}"
        )
    if config.get("inject_sample_info") or (config.get("num_frame_per_block") or 1) > 1:
        raise CheckpointError(
            f"{folder}: is told the frame rate, or attends block after block (inject_sample_info, num_frame_per_block "
            "above 1); served: SkyReels-V2 models that do neither"
        )
    if config.get("pos_embed_seq_len") is not None:
        raise CheckpointError(f"{folder}: is a first-and-last-frame model; served: text-to-video and image-to-video")
    parts = ["transformer", "vae", "text_encoder"]
    if config.get("image_dim") is not None:
        parts.append("image_encoder")
    for part in parts[1:]:
        _read_config(folder / part)
    return Layout(
        kind="diffusers",
        folder=folder,
        transformer=folder / "transformer",
        transformer_config=config,
        weights={part: tuple(find_weight_files(folder / part)) for part in parts},
        tokenizer=_find_tokenizer(folder / "tokenizer"),
    )


def _find_original(folder: Path) -> Layout:
    config = _read_config(folder)
    if config.get("_class_name") != "WanModel":
        raise CheckpointError(
            f"{folder / 'config.json'}: `_class_name` is {config.get('_class_name')}; served: WanModel, or a folder "
            "in diffusers layout"
        )
    task = config.get("model_type")
    if task not in {"t2v", "i2v"}:
        raise CheckpointError(f"{folder}: `model_type` is {task}; served in the original layout: t2v, i2v")
    parts = {"vae": ORIGINAL_VAE, "text_encoder": ORIGINAL_TEXT}
    if task == "i2v":
        parts["image_encoder"] = ORIGINAL_CLIP
    for name in parts.values():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: {name} is missing; the original Wan layout has it")
    return Layout(
        kind="original",
        folder=folder,
        transformer=folder,
        transformer_config=config,
        weights={
            "transformer": tuple(find_weight_files(folder)),
            **{part: (folder / name,) for part, name in parts.items()},
        },
        tokenizer=_find_tokenizer(folder / ORIGINAL_TOKENIZER),
    )


def _refuse_other_pipelines(folder: Path) -> None:
    index = read_json(folder / "model_index.json")
    second = index.get("transformer_2")
    if index.get("boundary_ratio") is not None or (second and second[0]) or index.get("expand_timesteps"):
        raise CheckpointError(f"{folder / 'model_index.json'}: is a Wan2.2 pipeline; served: Wan2.1")


def _read_config(folder: Path) -> Mapping[str, Any]:
    config = read_json(folder / "config.json")
    if not config:
        raise CheckpointError(f"{folder / 'config.json'}: is missing or empty; every part of a checkpoint has one")
    return config


def _find_tokenizer(folder: Path) -> Path:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model")):
        raise CheckpointError(f"{folder}: no tokenizer here; tokenizer.json or spiece.model is needed")
    return folder
