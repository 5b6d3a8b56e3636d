"""A folder as the Self-Forcing family needs it: a manifest and a `.pt` file, perhaps a LoRA; a base lies elsewhere."""

from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import WanTransformer3DModel
from torch import Tensor

from tests.support.original_names import original_name, original_state
from tests.support.tiny_checkpoint import tiny_manifest

FILE = "self_forcing_dmd.pt"
LORA = "lora.pt"
RANK = 4


def write_tiny_student(folder: Path, base: Path, teacher: Path, *, key: str | None = "generator_ema") -> Path:
    """Write a manifest and a `.pt` file with the transformer of `teacher`; everything else comes from `base`.

    Args:
        folder: Created when missing.
        base: Complete checkpoint.
        teacher: Checkpoint in diffusers layout; the file holds its transformer under `generator_ema`, and noise under
            `generator`.
        key: `weights.key` of the manifest.

    Returns:
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = wrap(original_state(load_transformer(teacher)))
    noise = {name: torch.ones_like(tensor) for name, tensor in state.items()}
    torch.save({"generator": noise, "generator_ema": state, "step": 600}, folder / FILE)
    weights = {"base": str(base), "transformer": FILE} | ({"key": key} if key else {})
    write_weights(folder, weights)
    return folder


def write_weights(folder: Path, weights: dict[str, Any]) -> None:
    """Write `manifest.yaml` with this `weights` section."""
    manifest = tiny_manifest("t2v") | {"name": "tiny-student", "weights": weights}
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))


def read_weights(folder: Path) -> dict[str, Any]:
    section: dict[str, Any] = yaml.safe_load((folder / "manifest.yaml").read_text())["weights"]
    return section


def load_transformer(checkpoint: Path) -> WanTransformer3DModel:
    return WanTransformer3DModel.from_pretrained(checkpoint / "transformer", local_files_only=True)


def wrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as FSDP training leaves them."""
    return {f"model._fsdp_wrapped_module.{name}": tensor for name, tensor in state.items()}


def write_tiny_lora(file: Path, transformer: WanTransformer3DModel) -> dict[str, Tensor]:
    """Write PEFT factors for every matrix of the blocks, under `generator_lora`.

    Returns:
        B A by diffusers name.
    """
    generator = torch.Generator().manual_seed(11)
    factors: dict[str, Tensor] = {}
    products: dict[str, Tensor] = {}
    for name, weight in transformer.state_dict().items():
        if name.startswith("blocks.") and weight.ndim == 2:
            down = torch.randn(RANK, weight.shape[1], generator=generator) * 0.1
            up = torch.randn(weight.shape[0], RANK, generator=generator) * 0.1
            module = "base_model.model.model." + original_name(name).removesuffix(".weight")
            factors |= {f"{module}.lora_A.default.weight": down, f"{module}.lora_B.default.weight": up}
            products[name] = up @ down
    torch.save({"generator_lora": factors}, file)
    return products
