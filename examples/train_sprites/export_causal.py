"""Write a causal state as checkpoint folders that take all but the transformer from the whole-clip model.

    python -m examples.train_sprites.export_causal --state runs/causal/few --out reelray/checkpoints/sprites-causal

Two folders are written: OUT, four steps for every chunk, and OUT-diagonal, the same weights with four steps, three,
then two.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
import yaml

from examples.train_sprites.causal_settings import RULE, STREAMING
from examples.train_sprites.export import load_average, write_weights
from examples.train_sprites.few_steps import DIAGONAL, EVERY_CHUNK
from reelray.proto.recipe import Schedule
from reelray.workers.models.wan.key_map import checkpoint_views

FILE = "diffusion_pytorch_model.safetensors"
DIAGONAL_SUFFIX = "-diagonal"


def manifest(name: str, schedule: Schedule, *, base: str, transformer: str) -> dict[str, Any]:
    """`manifest.yaml` of a stream.

    Args:
        name: Of the checkpoint.
        schedule: Step lists.
        base: Folder of the whole-clip model, relative to the manifest.
        transformer: Folder of the weights, relative to it too.
    """
    steps: dict[str, Any] = {
        "solver": str(schedule.solver),
        "timesteps": list(schedule.timesteps),
        "shift": schedule.shift,
        "prediction": str(schedule.prediction),
    }
    if schedule.first_chunks:
        steps["first_chunks"] = [list(listed) for listed in schedule.first_chunks]
    return {
        "name": name,
        "model": "wan",
        "task": "t2v",
        "schedule": steps,
        "guidance": {"scale": 1.0},
        "chunking": {"latent_frames": STREAMING.size},
        "memory": {"local": RULE.local, "sink": RULE.sink, "placement": str(RULE.placement)},
        "defaults": {"width": 192, "height": 128, "frames": 81, "fps": 16, "negative_prompt": ""},
        "text_tokens": 512,
        "decoder": "wan_exact_stream",
        "licence": "Apache-2.0",
        "weights": {"base": base, "transformer": transformer},
    }


def export(state: Path, out: Path, base: Path) -> tuple[Path, Path]:
    """Write both folders.

    Args:
        state: Folder of a stage of `train_causal`.
        out: The first folder.
        base: The whole-clip model.

    Returns:
        The folders.

    Raises:
        ValueError: There is no state.
    """
    model, _ = load_average(state)
    diagonal = out.with_name(out.name + DIAGONAL_SUFFIX)
    write_weights(out / "transformer", checkpoint_views(model.transformer), torch.float16, FILE)
    for folder, schedule in ((out, EVERY_CHUNK), (diagonal, DIAGONAL)):
        folder.mkdir(parents=True, exist_ok=True)
        said = manifest(
            folder.name,
            schedule,
            base=os.path.relpath(base, folder),
            transformer=os.path.relpath(out / "transformer", folder),
        )
        (folder / "manifest.yaml").write_text(yaml.safe_dump(said, sort_keys=False))
    return out, diagonal


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, default=Path("runs/causal/few"))
    parser.add_argument("--out", type=Path, default=Path("runs/sprites-causal"))
    parser.add_argument("--base", type=Path, default=Path("reelray/checkpoints/sprites"))
    options = parser.parse_args()
    for folder in export(options.state, options.out, options.base):
        print(folder)


if __name__ == "__main__":
    main()
