"""Write the trained sprites model as one diffusers-layout folder with a manifest.

python -m examples.train_sprites.export --vae runs/vae --dit runs/dit --out reelray/checkpoints/sprites
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from examples.train_sprites.sprites_model import SpritesModel
from examples.train_sprites.state_parts import read_parts
from examples.train_sprites.tokenizer import build_tokenizer
from examples.train_sprites.train_vae import load_vae
from reelray.proto.errors import WeightsError
from reelray.workers.models.wan.key_map import checkpoint_views
from reelray.workers.models.wan.umt5 import rename_tensor
from reelray.workers.models.wan.vae import WanVae

VERSION = "0.42.1"
GUIDANCE, STEPS, SHIFT = 2.0, 20, 12.0


def write_weights(folder: Path, tensors: dict[str, Tensor], dtype: torch.dtype, name: str) -> None:
    """Write one safetensors file in `dtype`."""
    folder.mkdir(parents=True, exist_ok=True)
    ready = {key: value.detach().to("cpu", dtype).contiguous() for key, value in tensors.items()}
    save_file(ready, folder / name, metadata={"format": "pt"})


def write_json(path: Path, value: Any) -> None:
    """Write JSON as diffusers does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def export_vae(vae: WanVae, folder: Path) -> None:
    """Write the VAE; half precision keeps ten bits of every weight."""
    config = vae.config
    write_weights(folder, dict(vae.state_dict()), torch.float16, "diffusion_pytorch_model.safetensors")
    write_json(
        folder / "config.json",
        {
            "_class_name": "AutoencoderKLWan",
            "_diffusers_version": VERSION,
            "base_dim": config.base_dim,
            "z_dim": config.z_dim,
            "dim_mult": list(config.dim_mult),
            "num_res_blocks": config.num_res_blocks,
            "attn_scales": [],
            "temperal_downsample": [False, True, True],
            "dropout": 0.0,
            "latents_mean": [round(x, 5) for x in config.latents_mean],
            "latents_std": [round(x, 5) for x in config.latents_std],
        },
    )


def export_transformer(model: SpritesModel, folder: Path) -> None:
    """Write the transformer under diffusers' names."""
    views = checkpoint_views(model.transformer)
    write_weights(folder, views, torch.float16, "diffusion_pytorch_model.safetensors")
    write_json(folder / "config.json", {**model.transformer.config.to_diffusers(), "_diffusers_version": VERSION})


def export_text(model: SpritesModel, words: list[str], out: Path) -> None:
    """Write text encoder and tokenizer."""
    from transformers import UMT5Config, UMT5EncoderModel  # noqa: PLC0415  slow to import

    sizes = asdict(model.text_encoder.config)
    encoder = UMT5EncoderModel(UMT5Config(**sizes, dropout_rate=0.0, pad_token_id=0, eos_token_id=1))
    ours = model.text_encoder.state_dict()
    encoder.load_state_dict({name: ours[str(rename_tensor(name))] for name in encoder.state_dict()})
    encoder.half().save_pretrained(out / "text_encoder")
    build_tokenizer(words).save_pretrained(out / "tokenizer")


def read_text(checkpoint: Path) -> dict[str, Tensor]:
    """Read the text encoder of a folder that `export` wrote, by our names.

    Raises:
        WeightsError: There is none.
    """
    file = checkpoint / "text_encoder" / "model.safetensors"
    if not file.is_file():
        raise WeightsError(f"{file}: missing; name a folder that was exported whole")
    return {str(rename_tensor(name)): tensor.float() for name, tensor in load_file(file).items()}


def scheduler_config(shift: float) -> dict[str, Any]:
    """UniPC as WanPipeline runs it."""
    return {
        "_class_name": "UniPCMultistepScheduler",
        "_diffusers_version": VERSION,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": shift,
        "num_train_timesteps": 1000,
        "solver_order": 2,
        "solver_type": "bh2",
        "final_sigmas_type": "zero",
    }


def model_index() -> dict[str, Any]:
    """The index that WanPipeline.from_pretrained reads."""
    return {
        "_class_name": "WanPipeline",
        "_diffusers_version": VERSION,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }


def manifest(guidance: float, shift: float) -> dict[str, Any]:
    """`manifest.yaml`: what a request gets when it does not say."""
    return {
        "name": "sprites",
        "model": "wan",
        "task": "t2v",
        "schedule": {"solver": "unipc", "steps": STEPS, "shift": shift, "prediction": "flow"},
        "guidance": {"scale": guidance},
        "chunking": {"latent_frames": None},
        "defaults": {"width": 192, "height": 128, "frames": 81, "fps": 16, "negative_prompt": ""},
        "longer": "sprites-causal",
        "text_tokens": 512,
        "decoder": "wan_exact_stream",
        "licence": "Apache-2.0",
    }


def load_average(dit_folder: Path) -> tuple[SpritesModel, list[str]]:
    """Load the averaged weights of a state that `train_dit` wrote, complete or not, and its words.

    Raises:
        ValueError: The folder holds no state.
    """
    state = read_parts(dit_folder)
    if state is None:
        raise ValueError(f"there is no state.json in {dit_folder}; train_dit writes it when it ends")
    words: list[str] = json.loads(state["words"])
    model = SpritesModel.shipped(len(build_tokenizer(words)))
    for name, weight in model.named_parameters():
        weight.data.copy_(state["average"][name])
    return model, words


def export(vae_folder: Path, dit_folder: Path, out: Path, *, guidance: float = GUIDANCE, shift: float = SHIFT) -> None:
    """Write the whole folder."""
    model, words = load_average(dit_folder)
    export_vae(load_vae(vae_folder, torch.device("cpu")), out / "vae")
    export_transformer(model, out / "transformer")
    export_text(model, words, out)
    write_json(out / "scheduler" / "scheduler_config.json", scheduler_config(shift))
    write_json(out / "model_index.json", model_index())
    (out / "manifest.yaml").write_text(yaml.safe_dump(manifest(guidance, shift), sort_keys=False))


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, default=Path("runs/vae"))
    parser.add_argument("--dit", type=Path, default=Path("runs/dit"))
    parser.add_argument("--out", type=Path, default=Path("runs/sprites"))
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--shift", type=float, default=SHIFT)
    options = parser.parse_args()
    export(options.vae, options.dit, options.out, guidance=options.guidance, shift=options.shift)


if __name__ == "__main__":
    main()
