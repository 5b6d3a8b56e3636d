"""The vision tower under the original release's names, against the same weights under transformers' names."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from reelray.proto.errors import WeightsError
from reelray.workers.models.wan.clip import PREPROCESS_MEAN, PREPROCESS_STD, ClipConfig, load_clip
from reelray.workers.models.wan.clip_original import load_original_clip
from reelray.workers.models.wan.image import embed_image

LAYERS = 3
# transformers' name in a layer, the original's; written the other way round than the code.
NAMES = (
    ("layer_norm1", "norm1"),
    ("self_attn.out_proj", "attn.proj"),
    ("layer_norm2", "norm2"),
    ("mlp.fc1", "mlp.0"),
    ("mlp.fc2", "mlp.2"),
)
CPU = {"device": "cpu", "dtype": torch.float32}


def original_tower(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's content as the original module tree names it, text tower and head included."""
    theirs = {name.removeprefix("vision_model."): tensor for name, tensor in theirs.items()}
    width = len(theirs["embeddings.class_embedding"])
    state = {
        "visual.cls_embedding": theirs["embeddings.class_embedding"].view(1, 1, width),
        "visual.pos_embedding": theirs["embeddings.position_embedding.weight"][None],
        "visual.patch_embedding.weight": theirs["embeddings.patch_embedding.weight"],
        "visual.head": torch.ones(width, 4),
        "textual.token_embedding.weight": torch.ones(5, 5),
        "textual.blocks.0.attn.q.weight": torch.ones(5, 5),
        "log_scale": torch.tensor(2.6),
    }
    for kind in ("weight", "bias"):
        state[f"visual.pre_norm.{kind}"] = theirs[f"pre_layrnorm.{kind}"]
        state[f"visual.post_norm.{kind}"] = theirs[f"post_layernorm.{kind}"]
        for layer in range(LAYERS):
            old, new = f"encoder.layers.{layer}", f"visual.transformer.{layer}"
            fused = [theirs[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{new}.attn.to_qkv.{kind}"] = torch.cat(fused)
            for name, original in NAMES:
                state[f"{new}.{original}.{kind}"] = theirs[f"{old}.{name}.{kind}"]
    return state


@pytest.fixture(scope="module")
def folder(tiny_i2v: Path) -> Path:
    return tiny_i2v / "image_encoder"


@pytest.fixture(scope="module")
def config(folder: Path) -> ClipConfig:
    return ClipConfig.from_transformers(json.loads((folder / "config.json").read_text()))


@pytest.fixture
def state(folder: Path) -> dict[str, Tensor]:
    return original_tower(load_file(folder / "model.safetensors"))


def test_both_names_give_the_same_tower(folder: Path, config: ClipConfig, state, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "clip.pth")
    theirs = load_clip([folder / "model.safetensors"], config, **CPU).state_dict()
    ours = load_original_clip(tmp_path / "clip.pth", config, **CPU).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_half_precision_files_are_widened(config: ClipConfig, state, tmp_path: Path) -> None:
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "clip.pth")
    tower = load_original_clip(tmp_path / "clip.pth", config, **CPU)
    wanted = state["visual.transformer.1.attn.to_qkv.weight"].half().float().chunk(3)[1]
    assert torch.equal(tower.layers[1].k_proj.weight, wanted)


@pytest.mark.parametrize(("height", "width"), [(32, 80), (20, 24), (28, 28)])
def test_the_whole_image_is_squeezed(config: ClipConfig, state, tmp_path: Path, height: int, width: int) -> None:
    torch.save(state, tmp_path / "clip.pth")
    values = {name: getattr(config, name) for name in ClipConfig.__dataclass_fields__} | {"framing": "stretch"}
    clip = load_original_clip(tmp_path / "clip.pth", ClipConfig(**values), **CPU)
    image_HWC = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    scaled = image_HWC.permute(2, 0, 1).float().div(255).sub(0.5).div(0.5)  # what the original hands to its tower
    pixels = F.interpolate(scaled[None], size=(28, 28), mode="bicubic", align_corners=False) * 0.5 + 0.5
    pixels = (pixels - torch.tensor(PREPROCESS_MEAN).view(3, 1, 1)) / torch.tensor(PREPROCESS_STD).view(3, 1, 1)
    with torch.no_grad():
        ours, wanted = embed_image(clip, image_HWC), clip(pixels)
    assert (ours - wanted).norm() / wanted.norm() < 1e-5


def test_what_does_not_fit_is_told(config: ClipConfig, state, tmp_path: Path) -> None:
    file = tmp_path / "clip.pth"

    def load(**changes: Tensor | None) -> None:
        changed = state | {name.replace("__", "."): tensor for name, tensor in changes.items()}
        torch.save({name: tensor for name, tensor in changed.items() if tensor is not None}, file)
        load_original_clip(file, config, **CPU)

    with pytest.raises(WeightsError, match=r"clip.pth: tensor layers\.1\.q_proj\.weight is missing; 3 of "):
        load(visual__transformer__1__attn__to_qkv__weight=None)
    with pytest.raises(WeightsError, match=r"has shape \[20, 19\]; \[20, 20\] is expected for layers\.0\.q_proj"):
        load(visual__transformer__0__attn__to_qkv__weight=torch.zeros(60, 19))
    with pytest.raises(WeightsError, match=r"layers\.0\.attn\.norm\.weight is not part of this model"):
        load(visual__transformer__0__attn__norm__weight=torch.zeros(3))
    with pytest.raises(WeightsError, match=r"has shape \[2, 20\]; \[20\] is expected for class_embedding"):
        load(visual__cls_embedding=torch.zeros(2, 20))
    file.write_bytes(b"x")
    with pytest.raises(WeightsError, match="damaged"):
        load_original_clip(file, config, **CPU)
