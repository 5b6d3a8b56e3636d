"""The environment is read once, checked, and loses against options."""

import os
from pathlib import Path

import pytest

from reelray.cluster.batching_choice import CPU_KNEE_TOKENS, choose_batching
from reelray.cluster.services import default_services
from reelray.cluster.settings import Settings, load_settings, variable_name
from reelray.cluster.store.open import address_of
from reelray.proto.errors import InputError
from reelray.proto.placement import Placement
from reelray.proto.residency import Residency
from reelray.scheduler.batching import Batching
from reelray.scheduler.limits import EngineLimits
from tests.test_floors import PACKAGE, sources


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in [name for name in os.environ if name.startswith("REELRAY_")]:
        monkeypatch.delenv(name)


def test_defaults():
    settings = load_settings()
    assert (settings.model, settings.device, settings.engine, settings.model_path) == ("sprites", "auto", "ray", ())
    assert settings.model_folders == (settings.data_dir / "models",)


def test_environment(monkeypatch):
    monkeypatch.setenv("REELRAY_MODEL_PATH", f"/a{os.pathsep}{os.pathsep}~/b")
    monkeypatch.setenv("REELRAY_DATA_DIR", "/data")
    monkeypatch.setenv("REELRAY_ENGINE", "local")
    settings = load_settings()
    assert settings.model_folders == (Path("/a"), Path.home() / "b", Path("/data/models"))
    assert settings.engine == "local"


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("REELRAY_MODEL", "")
    monkeypatch.setenv("REELRAY_ENGINE", "")
    assert (load_settings().model, load_settings().engine) == ("sprites", "ray")


def test_wrong_value_names_variable_and_allowed_values(monkeypatch):
    monkeypatch.setenv("REELRAY_DEVICE", "tpu")
    with pytest.raises(InputError, match=r"REELRAY_DEVICE is 'tpu'.*'auto', 'cpu' or 'cuda'"):
        load_settings()


def test_the_store_is_one_of_this_machine_unless_an_address_is_given(monkeypatch):
    assert address_of(load_settings()) is None
    monkeypatch.setenv("REELRAY_REDIS_URL", "rediss://ann:secret@store:6379/0")
    monkeypatch.setenv("REELRAY_REDIS_PREFIX", "blue")
    address = address_of(load_settings())
    assert (address.url, address.prefix) == ("rediss://ann:secret@store:6379/0", "blue")
    assert address.shown == "'rediss://store:6379/0'"
    assert "secret" not in repr(address)
    monkeypatch.setenv("REELRAY_REDIS_URL", "http://ann:secret@store")
    with pytest.raises(InputError, match="'http://store' must begin with redis://"):
        address_of(load_settings())


def test_memory_of_streams_is_a_number_above_zero(monkeypatch):
    assert load_settings().memory_gb is None
    monkeypatch.setenv("REELRAY_MEMORY_GB", "1.5")
    assert load_settings().memory_gb == 1.5
    monkeypatch.setenv("REELRAY_MEMORY_GB", "0")
    with pytest.raises(InputError, match=r"REELRAY_MEMORY_GB is '0'.*greater than 0"):
        load_settings()


def test_memory_of_streams_reaches_the_model(monkeypatch):
    monkeypatch.setenv("REELRAY_MEMORY_GB", "0.25")
    monkeypatch.setenv("REELRAY_HOST_MEMORY_GB", "3")
    monkeypatch.setattr("reelray.cluster.local_engine.LocalEngine.open", lambda loader, limits, **_: (loader(), limits))
    services = default_services()
    entry = services.open_catalog(load_settings()).find("sprites")
    monkeypatch.setenv("REELRAY_MARK_CHUNKS", "8")
    model, limits = services.open_engine("local", entry, "cpu", Placement(), Residency())
    assert limits.mark_chunks == 8
    assert (model.page_bytes, model.host_bytes) == (250_000_000, 3_000_000_000)


def test_batching_is_a_number_auto_or_off(monkeypatch):
    for on_gpus in (False, True):
        assert choose_batching(load_settings(), on_gpus=on_gpus).most == 1
    monkeypatch.setenv("REELRAY_BATCH", "auto")
    assert choose_batching(load_settings(), on_gpus=True).most == 1
    assert choose_batching(load_settings(), on_gpus=False).most > 1
    monkeypatch.setenv("REELRAY_BATCH", "3")
    monkeypatch.setenv("REELRAY_BATCH_TOKENS", "2048")
    monkeypatch.setenv("REELRAY_BATCH_INVARIANT", "true")
    for on_gpus in (False, True):
        assert choose_batching(load_settings(), on_gpus=on_gpus) == Batching(most=3, knee_tokens=2048, invariant=True)
    for wrong in ("0", "many"):
        monkeypatch.setenv("REELRAY_BATCH", wrong)
        with pytest.raises(InputError, match=f"REELRAY_BATCH is '{wrong}'"):
            load_settings()


def test_batching_reaches_the_engine(monkeypatch):
    monkeypatch.setenv("REELRAY_BATCH", "3")
    monkeypatch.setattr("reelray.cluster.local_engine.LocalEngine.open", lambda _loader, limits: limits)
    services = default_services()
    entry = services.open_catalog(load_settings()).find("sprites")
    limits = services.open_engine("local", entry, "cpu", Placement(), Residency())
    assert limits == EngineLimits(batching=Batching(most=3, knee_tokens=CPU_KNEE_TOKENS))


def test_every_setting_is_described():
    assert all(field.description for field in Settings.model_fields.values())


def test_nobody_else_reads_the_environment():
    allowed = {"cluster/settings.py", "cluster/ray_surroundings.py"}
    allowed |= {"workers/engine/gang_rank.py", "workers/parallel/local_ranks.py"}  # gloo and NCCL are told so alone
    readers = {
        str(p.relative_to(PACKAGE)) for p in sources() if "os.environ" in p.read_text() or "getenv" in p.read_text()
    }
    assert readers <= allowed


def test_every_setting_is_on_the_page():
    page = (PACKAGE.parent / "docs" / "command-line.md").read_text()
    assert all(f"`{variable_name(name)}`" in page for name in Settings.model_fields)
