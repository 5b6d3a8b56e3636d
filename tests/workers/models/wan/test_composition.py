"""Folders whose manifest replaces the transformer of a base checkpoint."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reelray.proto.errors import CheckpointError, ManifestError, ReelrayError, WeightsError
from reelray.workers.models.registry import describe_checkpoint, open_checkpoint
from reelray.workers.models.wan.key_map import checkpoint_views
from tests.support.tiny_checkpoint import write_tiny_checkpoint
from tests.support.tiny_student import (
    FILE,
    LORA,
    RANK,
    load_transformer,
    read_weights,
    write_tiny_lora,
    write_tiny_student,
    write_weights,
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of other weights than those of the base."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("teacher") / "teacher", seed=5)


@pytest.fixture
def student(tiny_t2v: Path, teacher: Path, tmp_path: Path) -> Path:
    return write_tiny_student(tmp_path / "student", tiny_t2v, teacher)


def views_of(folder: Path) -> dict[str, Tensor]:
    return checkpoint_views(open_checkpoint(folder, device="cpu").parts.transformer)  # type: ignore[attr-defined]


def edit(folder: Path, **values: object) -> None:
    section = read_weights(folder) | values
    write_weights(folder, {name: value for name, value in section.items() if value is not None})


def test_the_transformer_comes_from_the_file_and_the_rest_from_the_base(
    student: Path, teacher: Path, tiny_t2v: Path
) -> None:
    wanted = load_transformer(teacher).state_dict()
    found = views_of(student)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    ours, base = open_checkpoint(student, device="cpu"), open_checkpoint(tiny_t2v, device="cpu")
    texts = [model.parts.text_encoder.encode(["a red circle"]) for model in (ours, base)]  # type: ignore[attr-defined]
    assert torch.equal(*texts)
    assert (ours.facts, ours.digest != base.digest) == (base.facts, True)


def test_the_key_chooses(student: Path) -> None:
    edit(student, key="generator")
    assert all(bool((view == 1).all()) for view in views_of(student).values())


def test_a_path_is_read_from_the_manifest_and_not_from_here(
    student: Path, tiny_t2v: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    edit(student, base=os.path.relpath(tiny_t2v, student))
    monkeypatch.chdir(tmp_path)
    assert describe_checkpoint(Path("student")).layout == "manifest"
    assert open_checkpoint(Path("student"), device="cpu").facts.task == "t2v"


def test_a_folder_of_weights_will_do(student: Path, teacher: Path, tmp_path: Path) -> None:
    wanted = views_of(student)
    (tmp_path / "held").mkdir()
    shutil.move(student / FILE, tmp_path / "held" / "model.pt")
    edit(student, transformer="../held")
    assert torch.equal(views_of(student)["proj_out.weight"], wanted["proj_out.weight"])
    edit(student, transformer=str(teacher / "transformer"), key=None)
    assert torch.equal(views_of(student)["proj_out.weight"], wanted["proj_out.weight"])


@pytest.mark.parametrize("replaces", [True, False], ids=["on the file", "on the base"])
def test_a_lora_is_merged(student: Path, teacher: Path, tiny_t2v: Path, *, replaces: bool) -> None:
    below = load_transformer(teacher if replaces else tiny_t2v)
    products = write_tiny_lora(student / LORA, below)
    lora = {"path": LORA, "key": "generator_lora", "alpha": 2, "strength": 0.5}
    edit(student, lora=lora, **({} if replaces else {"transformer": None, "key": None}))
    found = views_of(student)
    assert len(products) == 20
    for name, weight in below.state_dict().items():
        change = 0.5 * 2 / RANK * products[name] if name in products else 0
        torch.testing.assert_close(found[name], weight + change, rtol=0, atol=1e-6)
        assert torch.equal(found[name], weight) == (name not in products)


def test_the_description_needs_no_torch(student: Path, tiny_t2v: Path) -> None:
    described, base = describe_checkpoint(student), describe_checkpoint(tiny_t2v)
    assert (described.layout, described.recipe.name, described.facts) == ("manifest", "tiny-student", base.facts)
    sizes = (student / FILE).stat().st_size - sum(f.stat().st_size for f in (tiny_t2v / "transformer").glob("*.saf*"))
    assert described.weight_bytes - base.weight_bytes == sizes
    code = (
        "import sys; from pathlib import Path; from reelray.workers.models.registry import describe_checkpoint;"
        f"describe_checkpoint(Path({str(student)!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_digest_follows_what_is_composed_and_not_where_it_lies(student: Path, tiny_t2v: Path) -> None:
    def digest() -> str:
        return open_checkpoint(student, device="cpu").digest

    write_tiny_lora(student / LORA, load_transformer(tiny_t2v))
    first = digest()
    moved = shutil.copytree(tiny_t2v, student / "elsewhere")
    edit(student, base="elsewhere")
    assert digest() == first
    digests = {first}
    for change in ({"lora": {"path": LORA}}, {"lora": {"path": LORA, "strength": 0.5}}, {"key": "generator"}):
        edit(student, **change)
        digests.add(digest())
    text = next((moved / "text_encoder").glob("*.safetensors"))
    text.write_bytes(text.read_bytes()[:-4] + b"\0\0\0\0")
    digests.add(digest())
    assert len(digests) == 5


def chain(folder: Path) -> None:
    write_tiny_student(folder / "middle", Path(read_weights(folder)["base"]), Path(read_weights(folder)["base"]))
    edit(folder, base="middle")


def break_base(folder: Path) -> None:
    shutil.copytree(Path(read_weights(folder)["base"]), folder / "base")
    shutil.rmtree(folder / "base" / "vae")
    edit(folder, base="base")


Damage = Callable[[Path], object]
EARLY: list[tuple[Damage, type[ReelrayError], str]] = [
    (lambda f: edit(f, base="../gone"), ManifestError, "manifest.yaml: field `weights.base`: "),
    (lambda f: edit(f, base="../gone"), ManifestError, "gone: no such folder"),
    (lambda f: edit(f, base=FILE), ManifestError, f"{FILE}: is a file; name a folder"),
    (lambda f: edit(f, base=".."), CheckpointError, "is not a checkpoint; it needs"),
    (lambda f: edit(f, base="."), ManifestError, "has a `weights` section too"),
    (chain, ManifestError, "middle has a `weights` section too; name a folder that is complete"),
    (break_base, CheckpointError, "field `weights.base`: "),
    (lambda f: (f / FILE).unlink(), WeightsError, f"field `weights.transformer`: {{folder}}/{FILE}: no such file"),
    (lambda f: edit(f, transformer="manifest.yaml"), ManifestError, "allowed: .pt, .pth, .safetensors files"),
    (lambda f: edit(f, key="ema"), ManifestError, "field `weights.key` is 'ema'; allowed: generator, generator_ema"),
    (lambda f: edit(f, lora={"path": "gone.pt"}), WeightsError, "field `weights.lora.path`: {folder}/gone.pt: no such"),
    (lambda f: edit(f, lora={"path": FILE, "alpha": -1}), ManifestError, "lora.alpha is -1.0; it must be greater"),
    (
        lambda f: edit(f, transformer=None, lora={"path": FILE}),
        ManifestError,
        "key is generator_ema, but no transformer is named",
    ),
    (lambda f: edit(f, transformer=None, key=None), ManifestError, "neither transformer nor lora is named"),
]


@pytest.mark.parametrize(("damage", "kind", "told"), EARLY)
def test_what_needs_no_weights_is_told_by_the_description(
    student: Path, damage: Damage, kind: type[ReelrayError], told: str
) -> None:
    damage(student)
    for use in (describe_checkpoint, lambda path: open_checkpoint(path, device="cpu")):
        with pytest.raises(kind) as caught:
            use(student)
        assert told.format(folder=student) in caught.value.message
        assert "\n" not in caught.value.message


def test_a_key_needs_a_file_with_sub_dicts(student: Path, teacher: Path) -> None:
    edit(student, transformer=str(teacher / "transformer"))
    with pytest.raises(ManifestError, match=r"`weights.key` is 'generator_ema', but .* has no sub-dicts"):
        describe_checkpoint(student)


def test_several_files_are_not_guessed_between(student: Path) -> None:
    (student / "other.pt").touch()
    edit(student, transformer=".")
    with pytest.raises(ManifestError, match=rf"holds other.pt, {FILE}; name one of them"):
        describe_checkpoint(student)


def test_a_wrong_key_lists_those_of_the_file(student: Path) -> None:
    edit(student, key="model")
    with pytest.raises(WeightsError, match="no weights under 'model'; it holds generator, generator_ema"):
        open_checkpoint(student, device="cpu")
    edit(student, key=None)
    with pytest.raises(WeightsError, match="holds generator_ema and generator; name one of them as key"):
        open_checkpoint(student, device="cpu")


def test_another_architecture_than_the_bases_is_told(student: Path) -> None:
    content = torch.load(student / FILE)
    state = content["generator_ema"]
    content["generator_ema"] = {name: tensor for name, tensor in state.items() if ".blocks.1." not in name}
    torch.save(content, student / FILE)
    with pytest.raises(WeightsError, match=r"another architecture than its base .*: num_layers 1 instead of 2$"):
        open_checkpoint(student, device="cpu")
    content["generator_ema"] = {"unrelated": torch.zeros(1)}
    torch.save(content, student / FILE)
    with pytest.raises(WeightsError, match=r"patch_embedding.weight is missing; not a Wan transformer"):
        open_checkpoint(student, device="cpu")


@pytest.mark.parametrize("cut", [("lora_A", 0), ("lora_B", 0)], ids=["rank", "shape"])
def test_a_lora_that_does_not_fit_is_told(student: Path, teacher: Path, cut: tuple[str, int]) -> None:
    write_tiny_lora(student / LORA, load_transformer(teacher))
    content = torch.load(student / LORA)
    factors = content["generator_lora"]
    name = next(name for name in factors if cut[0] in name)
    factors[name] = factors[name][:-1].clone()
    torch.save(content, student / LORA)
    edit(student, lora={"path": LORA})
    with pytest.raises(
        WeightsError, match=rf"{LORA}: LoRA factors .* do not fit a weight of .*, blocks\.0\.attn1\.to_q"
    ):
        open_checkpoint(student, device="cpu")
