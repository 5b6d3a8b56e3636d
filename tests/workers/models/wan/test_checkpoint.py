"""Opening and describing checkpoint folders, and every way they can be wrong."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import SkyReelsV2Transformer3DModel, WanTransformer3DModel

from reelray.proto.errors import CheckpointError, ManifestError, ReelrayError, UnknownModelError, WeightsError
from reelray.proto.recipe import Solver
from reelray.workers.models.registry import describe_checkpoint, open_checkpoint
from reelray.workers.models.wan.block_ops import FUSED_OPS, TORCH_OPS, choose_ops
from reelray.workers.models.wan.layout import find_layout
from reelray.workers.models.wan.transformer import WanTransformer
from tests.support.tiny_checkpoint import TEXT_TOKENS, write_tiny_checkpoint


@pytest.fixture
def folder(tiny_t2v: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_t2v, tmp_path / "copy"))


def test_a_gpu_with_triton_gets_the_fused_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, ops in ((True, FUSED_OPS), (None, TORCH_OPS)):
        monkeypatch.setattr("importlib.util.find_spec", lambda _name, found=found: found)
        assert choose_ops(torch.device("cuda")) is ops
        assert choose_ops(torch.device("cpu")) is TORCH_OPS


def test_opening_chooses_the_ops_and_compiles_on_demand(tiny_t2v: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(WanTransformer, "use_ops", lambda _self, ops: done.append(ops))
    monkeypatch.setattr(WanTransformer, "compile_blocks", lambda _self: done.append("compiled"))
    open_checkpoint(tiny_t2v, device="cpu")
    assert done == [TORCH_OPS]
    open_checkpoint(tiny_t2v, device="cpu", compiled=True)
    assert done == [TORCH_OPS, TORCH_OPS, "compiled"]


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_t2v_checkpoint_opens(tiny_t2v: Path) -> None:
    model = open_checkpoint(tiny_t2v, device="cpu")
    facts = model.facts
    assert (facts.family, facts.task, facts.latent_channels) == ("wan", "t2v", 16)
    assert (facts.spatial_stride, facts.temporal_stride, facts.patch) == (8, 4, (1, 2, 2))
    assert (facts.text_tokens, facts.layers, facts.dim) == (TEXT_TOKENS, 2, 32)
    oracle = WanTransformer3DModel.from_pretrained(tiny_t2v / "transformer")
    assert facts.parameters == sum(parameter.numel() for parameter in oracle.parameters())
    assert facts.positions == oracle.config.rope_max_seq_len
    assert model.dtype == torch.float32
    assert len(model.digest) == 32


def test_a_description_tells_the_same_without_weights(tiny_i2v: Path) -> None:
    description = describe_checkpoint(tiny_i2v)
    assert description.facts == open_checkpoint(tiny_i2v, device="cpu").facts
    assert description.layout == "diffusers"
    assert description.recipe.name == "tiny-i2v"
    assert set(description.parameters) == {"transformer", "vae", "text_encoder", "image_encoder"}
    size = sum(file.stat().st_size for file in tiny_i2v.rglob("*.safetensors"))
    assert description.weight_bytes == size


def test_describing_does_not_import_torch(tiny_t2v: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from reelray.workers.models.registry import describe_checkpoint;"
        f"describe_checkpoint(Path({str(tiny_t2v)!r}));"
        "print([name for name in ('torch', 'transformers', 'diffusers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_opening_imports_nothing_slow(tiny_i2v: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from reelray.workers.models.registry import open_checkpoint;"
        f"model = open_checkpoint(Path({str(tiny_i2v)!r}), device='cpu'); model.encode_text(['a']);"
        "print([name for name in ('transformers', 'diffusers', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_digest_follows_the_weights(tiny_t2v: Path, tmp_path: Path) -> None:
    same = write_tiny_checkpoint(tmp_path / "same")
    other = write_tiny_checkpoint(tmp_path / "other", seed=1)
    first, second, third = (open_checkpoint(path, device="cpu").digest for path in (tiny_t2v, same, other))
    assert first == second != third


def test_dtype_is_a_knob(tiny_t2v: Path) -> None:
    model = open_checkpoint(tiny_t2v, device="cpu", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"dtype is torch\.float16; allowed: torch\.float32, torch\.bfloat16"):
        open_checkpoint(tiny_t2v, device="cpu", dtype=torch.float16)


def test_without_a_manifest_the_configurations_tell(folder: Path) -> None:
    (folder / "manifest.yaml").unlink()
    recipe = describe_checkpoint(folder).recipe
    assert (recipe.name, recipe.task, recipe.licence) == ("copy", "t2v", "unknown")
    assert (recipe.schedule.solver, recipe.schedule.shift) == (Solver.UNIPC, 3.0)


def test_the_original_layout_is_found(tmp_path: Path) -> None:
    config = {"_class_name": "WanModel", "model_type": "t2v", "dim": 1536, "num_layers": 30, "in_dim": 16}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"Wan2\.1_VAE\.pth is missing; the original Wan layout has it"):
        find_layout(tmp_path)
    names = ["Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "diffusion_pytorch_model.safetensors"]
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"no tokenizer here"):
        find_layout(tmp_path)
    (tmp_path / "google" / "umt5-xxl").mkdir(parents=True)
    (tmp_path / "google" / "umt5-xxl" / "tokenizer.json").touch()
    layout = find_layout(tmp_path)
    assert (layout.kind, layout.task, layout.transformer) == ("original", "t2v", tmp_path)
    assert {name: [file.name for file in files] for name, files in layout.weights.items()} == {
        "transformer": [names[2]],
        "vae": [names[0]],
        "text_encoder": [names[1]],
    }
    edit_json(tmp_path / "config.json", model_type="vace")
    with pytest.raises(CheckpointError, match="`model_type` is vace; served in the original layout: t2v, i2v"):
        find_layout(tmp_path)
    edit_json(tmp_path / "config.json", model_type="i2v", in_dim=36)
    clip = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    with pytest.raises(CheckpointError, match=f"{clip} is missing; the original Wan layout has it"):
        find_layout(tmp_path)
    (tmp_path / clip).touch()
    layout = find_layout(tmp_path)
    assert (layout.kind, layout.task, layout.weights["image_encoder"]) == ("original", "i2v", (tmp_path / clip,))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def rewrite_manifest(folder: Path, **values: object) -> None:
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


SKYREELS = {"_class_name": "SkyReelsV2Transformer3DModel"}
Damage = Callable[[Path], object]
DAMAGES: list[tuple[Damage, type[ReelrayError], str]] = [
    (lambda f: shutil.rmtree(f / "vae"), CheckpointError, "vae/config.json: is missing or empty"),
    (lambda f: shutil.rmtree(f / "tokenizer"), CheckpointError, "tokenizer: no tokenizer here"),
    (lambda f: (f / "transformer" / "config.json").unlink(), CheckpointError, "transformer/config.json: is missing"),
    (lambda f: (f / "vae" / "config.json").write_text("{"), CheckpointError, "config.json: not a readable JSON file"),
    (
        lambda f: (f / "text_encoder" / "model.safetensors").unlink(),
        WeightsError,
        "text_encoder: holds no .safetensors file",
    ),
    (lambda f: truncate(next((f / "transformer").glob("*.safetensors"))), WeightsError, "download"),
    (lambda f: truncate(f / "vae" / "diffusion_pytorch_model.safetensors"), WeightsError, "download"),
    (lambda f: rewrite_manifest(f, task="i2v"), ManifestError, "field `task` is 'i2v'; the transformer is made for"),
    (lambda f: rewrite_manifest(f, schedule={"solver": "x"}), ManifestError, "field `schedule.solver` is 'x'"),
    (
        lambda f: edit_json(f / "transformer" / "config.json", _class_name="WanVACETransformer3DModel"),
        CheckpointError,
        "`_class_name` is WanVACETransformer3DModel; served: WanTransformer3DModel",
    ),
    (
        lambda f: edit_json(f / "transformer" / "config.json", num_layers="two"),
        WeightsError,
        "transformer/config.json: num_layers is 'two'; it must be a whole number",
    ),
    (lambda f: edit_json(f / "model_index.json", boundary_ratio=0.9), CheckpointError, "is a Wan2.2 pipeline"),
    (
        lambda f: edit_json(f / "transformer" / "config.json", pos_embed_seq_len=514),
        CheckpointError,
        "first-and-last-frame",
    ),
    *(
        (
            lambda f, said=said: edit_json(f / "transformer" / "config.json", **SKYREELS, **said),
            CheckpointError,
            "neither",
        )
        for said in ({"inject_sample_info": True}, {"num_frame_per_block": 5})
    ),
]


@torch.no_grad()
def test_a_skyreels_transformer_is_ours_with_a_timestep_for_each_frame(folder: Path) -> None:
    """diffusers runs it on the same folder, whose weights have the same names."""
    edit_json(folder / "transformer" / "config.json", **SKYREELS)
    theirs = SkyReelsV2Transformer3DModel.from_pretrained(folder / "transformer").eval()
    model = open_checkpoint(folder, device="cpu")
    latents, times = torch.randn(1, 16, 4, 4, 6), torch.tensor([[20.0, 999.0, 500.0, 0.0]])
    context = torch.randn(1, TEXT_TOKENS, theirs.config.text_dim)
    wanted = theirs(latents, times, context, enable_diffusion_forcing=True, return_dict=False)[0]
    text = model.parts.transformer.prepare_text(context)
    found = model.parts.transformer(latents, times, text)
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(("damage", "kind", "told"), DAMAGES)
def test_damage_is_told_in_one_line_before_loading(
    folder: Path, damage: Damage, kind: type[ReelrayError], told: str
) -> None:
    damage(folder)
    for use in (describe_checkpoint, lambda path: open_checkpoint(path, device="cpu")):
        with pytest.raises(kind) as caught:
            use(folder)
        assert told in caught.value.message
        assert "\n" not in caught.value.message


def test_parts_that_do_not_fit_together_are_told(folder: Path) -> None:
    edit_json(folder / "text_encoder" / "config.json", d_model=48)
    with pytest.raises(CheckpointError, match="text_dim is 24; the text encoder's d_model need 48"):
        open_checkpoint(folder, device="cpu")


def test_defaults_the_model_cannot_make_are_told(folder: Path) -> None:
    for wrong, told in (
        ({"width": 40}, "width 40 is not a multiple of 16"),
        ({"frames": 8}, "8 frames cannot be made"),
        ({"frames": 257}, "257 frames are too many for this model; it makes at most 253"),
    ):
        rewrite_manifest(folder, defaults={"width": 32, "height": 32, "frames": 9, "fps": 8} | wrong)
        with pytest.raises(ManifestError, match=rf"manifest.yaml: field `defaults`: {told}"):
            describe_checkpoint(folder)


def test_places_the_model_does_not_have_are_told(folder: Path) -> None:
    memory = {"local": 4, "placement": "wrapped", "wrap": 80}
    rewrite_manifest(folder, chunking={"latent_frames": 1}, memory=memory)
    with pytest.raises(ManifestError, match=r"manifest.yaml: memory.wrap is 80; the model has 64 positions"):
        describe_checkpoint(folder)


def test_a_wrong_vae_configuration_is_told_with_its_file(folder: Path) -> None:
    edit_json(folder / "vae" / "config.json", latents_mean=[0.0])
    with pytest.raises(CheckpointError, match=r"vae/config.json: latents_mean=\(0.0,\): needs 16"):
        open_checkpoint(folder, device="cpu")


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="no such folder"):
        describe_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is not a checkpoint; it needs transformer/, vae/"):
        describe_checkpoint(tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(CheckpointError, match="is a file; a checkpoint folder is needed"):
        describe_checkpoint(file)


def test_a_wished_recipe_replaces_the_folders_own(tiny_t2v: Path) -> None:
    recipe = dataclasses.replace(describe_checkpoint(tiny_t2v).recipe, text_tokens=16)
    assert open_checkpoint(tiny_t2v, device="cpu", recipe=recipe).facts.text_tokens == 16
    wrong = dataclasses.replace(recipe, task="i2v")
    with pytest.raises(ManifestError, match="field `task` is 'i2v'"):
        open_checkpoint(tiny_t2v, device="cpu", recipe=wrong)
