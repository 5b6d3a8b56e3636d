"""Weight files looked at without loading them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from reelray.proto.errors import WeightsError
from reelray.workers.models.weight_files import count_parameters, digest_files, find_weight_files


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3, 5, dtype=torch.bfloat16), "b": torch.zeros(7)}, path, metadata={"format": "pt"})
    return path


def test_single_file_and_shards_are_found(weights: Path, tiny_i2v: Path) -> None:
    assert find_weight_files(weights.parent) == [weights]
    shards = find_weight_files(tiny_i2v / "transformer")
    assert len(shards) > 1
    assert all(path.is_file() for path in shards)


def test_what_is_missing_is_named(tiny_i2v: Path, tmp_path: Path) -> None:
    folder = tmp_path / "transformer"
    with pytest.raises(WeightsError, match="this folder is missing"):
        find_weight_files(folder)
    shutil.copytree(tiny_i2v / "transformer", folder)
    gone = find_weight_files(folder)[1]
    gone.unlink()
    with pytest.raises(WeightsError, match=rf"{gone.name}: the shard is missing \(1 of 3\)"):
        find_weight_files(folder)
    (index,) = folder.glob("*.index.json")
    index.write_text("{}")
    with pytest.raises(WeightsError, match="is not an index of shards"):
        find_weight_files(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(WeightsError, match=r"names '\.\./elsewhere\.safetensors'; a shard lies beside its index"):
        find_weight_files(folder)
    index.unlink()
    with pytest.raises(WeightsError, match=r"holds 2 \.safetensors files and no"):
        find_weight_files(folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(WeightsError, match=r"holds no \.safetensors file"):
        find_weight_files(folder)


def test_digest_follows_names_and_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(json.dumps(1))
    second.write_text(json.dumps(2))
    both = digest_files([first, second], tmp_path)
    assert both == digest_files([second, first], tmp_path)
    assert len(both) == 32
    second.write_text(json.dumps(3))
    changed = digest_files([first, second], tmp_path)
    second.rename(tmp_path / "c.json")
    assert len({both, changed, digest_files([first, tmp_path / "c.json"], tmp_path)}) == 3


def test_digest_of_a_large_file_sees_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reelray.workers.models.weight_files.WHOLE_BYTES", 1000)
    monkeypatch.setattr("reelray.workers.models.weight_files.SAMPLE_BYTES", 100)
    path = tmp_path / "large"
    digests = set()
    for place in (None, 0, 4999):
        content = bytearray(5000)
        if place is not None:
            content[place] = 1
        path.write_bytes(content)
        digests.add(digest_files([path], tmp_path))
    assert len(digests) == 3


def test_parameters_are_counted(weights: Path) -> None:
    assert count_parameters(weights) == 3 * 5 + 7


@pytest.mark.parametrize("kept", [0, 5, 8, 20, -1])
def test_a_truncated_file_is_told(weights: Path, kept: int) -> None:
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"model\.safetensors: (not a safetensors file, or truncated|has \d+ bytes)"):
        count_parameters(weights)


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\n",
        b"\x02\0\0\0\0\0\0\0[]",
        b"\x02\0\0\0\0\0\0\0{]",
        b'\x08\0\0\0\0\0\0\0{"a": 3}',
    ],
)
def test_another_format_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"x\.safetensors: (not a safetensors file|the header)"):
        count_parameters(path)
    with pytest.raises(WeightsError, match="the file is missing"):
        count_parameters(tmp_path / "none.safetensors")
