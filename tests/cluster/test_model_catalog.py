"""Names become checkpoint folders."""

import pytest

from reelray.cluster.model_catalog import BrokenModel, ModelCatalog, is_path
from reelray.cluster.model_report import describe_models, list_models
from reelray.proto.errors import CheckpointError, UnknownModelError
from tests.support.fake_engine import RECIPE, FakeEngine, fake_entry, fake_services, write_models


@pytest.fixture
def catalog(tmp_path):
    write_models(tmp_path, "fake", "other")
    (tmp_path / "broken").mkdir()
    (tmp_path / ".hidden").mkdir()
    return fake_services(FakeEngine(), tmp_path).open_catalog(None)


def test_finds_by_name_and_by_path(catalog, tmp_path, monkeypatch):
    assert catalog.find("fake").path == tmp_path / "fake"
    assert catalog.find(str(tmp_path / "other")).name == "other"
    monkeypatch.chdir(tmp_path)
    assert catalog.find("./other").path.name == "other"


def test_bare_name_of_a_folder_here_works_when_nothing_else_has_it(catalog, tmp_path, monkeypatch):
    write_models(tmp_path / "here", "mine", "fake")
    monkeypatch.chdir(tmp_path / "here")
    assert catalog.find("mine").path.resolve() == tmp_path / "here" / "mine"
    assert catalog.find("fake").path == tmp_path / "fake"


def test_first_folder_wins(tmp_path):
    write_models(tmp_path / "a", "fake")
    write_models(tmp_path / "b", "fake", "only-b")
    catalog = ModelCatalog((tmp_path / "a", tmp_path / "b", tmp_path / "none"), {}, lambda p: fake_entry(path=p))
    assert catalog.find("fake").path == tmp_path / "a" / "fake"
    assert [model.path.parent.name for model in catalog.scan()] == ["a", "b"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("fake2", "unknown model 'fake2'; did you mean 'fake'.*models here: broken, fake, other"),
        ("zzz", "unknown model 'zzz'; models here: broken, fake, other"),
        ("wan2.1-t2v-1.3b", "is known, but its weights are not here.*--model ./wan2.1-t2v-1.3b"),
        ("wan2.1-t2v-1.4b", "did you mean 'wan2.1-t2v-1.3b'"),
        ("./zzz", "model folder './zzz' does not exist"),
    ],
)
def test_unknown_models(catalog, model, words):
    with pytest.raises(UnknownModelError, match=words):
        catalog.find(model)


def test_file_is_no_checkpoint(catalog, tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="is a file; name the checkpoint's folder"):
        catalog.find(str(tmp_path / "model.safetensors"))


def test_scan_keeps_broken_ones_with_their_problem(catalog):
    found = {model.name: model for model in catalog.scan()}
    assert set(found) == {"broken", "fake", "other"}
    assert isinstance(found["broken"], BrokenModel)
    assert "manifest.yaml" in found["broken"].problem


def test_report_lists_found_broken_and_missing(catalog):
    listed = {model["name"]: model for model in list_models(catalog)}
    assert listed["fake"]["size"] == "96x64"
    assert listed["fake"]["licence"] == RECIPE.licence
    assert "manifest.yaml" in listed["broken"]["problem"]
    assert listed["wan2.1-t2v-1.3b"]["problem"] == "no weights here"
    text = describe_models(list(listed.values()))
    assert len(text.splitlines()) == 1 + len(listed)
    assert all(line == line.rstrip() for line in text.splitlines())


def test_what_is_a_path():
    assert all(is_path(text) for text in (".", "./a", "../a", "a/b", "/a", "~/a"))
    assert not any(is_path(text) for text in ("sprites", "wan2.1-t2v-1.3b"))
