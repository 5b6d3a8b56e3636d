"""The doctor sees what is missing and says how to get it."""

import json
from dataclasses import replace

import pytest

from reelray.cluster import doctor, machine
from reelray.cluster.doctor import describe_machine, inspect_machine
from reelray.cluster.machine import Gpu, list_gpus, memory_bytes, read_cpu
from reelray.proto.errors import InputError
from tests.support.fake_engine import FakeEngine, fake_services, write_models


@pytest.fixture
def services(tmp_path):
    return fake_services(FakeEngine(), write_models(tmp_path / "models"))


def test_this_machine_can_render(services):
    report = inspect_machine(services)
    assert report.can_render
    assert report.encoders == {"h264": True, "vp9": True}
    assert report.versions["torch"]
    assert report.models == ("fake",)
    said = describe_machine(report)
    assert said.endswith("This machine can render.")
    assert report.cpu.model in said
    assert json.loads(json.dumps(report.as_json()))["can_render"] is True


def test_missing_packages(services, monkeypatch):
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in {"ray", "redis"} else version(name))
    findings = {finding.problem: finding for finding in inspect_machine(services).findings}
    assert findings["ray is not installed"].fatal
    assert not findings["redis is not installed"].fatal
    assert findings["redis is not installed"].remedy == "pip install 'reelray[serve]'"
    assert "triton is not installed" not in findings  # of no use without a GPU


def test_gpu_packages_are_missed_where_there_is_a_gpu(services, monkeypatch):
    gpu = Gpu(name="NVIDIA H200", memory_bytes=150 * 10**9, capability="9.0", driver="580.1")
    version = doctor._version
    monkeypatch.setattr(doctor, "list_gpus", lambda: [gpu])
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "triton" else version(name))
    monkeypatch.setattr(doctor, "_nccl_version", lambda _gpus: "2.27.5")
    monkeypatch.setattr(doctor, "_check_gpu_use", lambda _versions, _gpus: [])
    report = inspect_machine(services)
    assert ("triton is not installed", "pip install 'reelray[gpu]'") in {(f.problem, f.remedy) for f in report.findings}
    assert report.can_render
    assert "NVIDIA H200, 150 GB, capability 9.0, driver 580.1" in describe_machine(report)


def test_broken_encoder_is_no_reason_to_give_up(services, monkeypatch):
    monkeypatch.setattr(doctor, "_encoder_works", lambda video_format: video_format == "webm")
    report = inspect_machine(services)
    assert report.can_render
    assert [finding.problem for finding in report.findings if "h264" in finding.problem]


def test_no_model_and_wrong_settings_are(services, tmp_path):
    (tmp_path / "none").mkdir()
    report = inspect_machine(fake_services(FakeEngine(), tmp_path / "none"))
    assert not report.can_render
    assert "REELRAY_MODEL_PATH" in describe_machine(report)

    def refuse():
        raise InputError("REELRAY_DEVICE is 'tpu'")

    report = inspect_machine(replace(services, load_settings=refuse))
    assert not report.can_render
    assert "REELRAY_DEVICE is 'tpu'" in describe_machine(report)


@pytest.mark.parametrize("below", ["", "inside"])
def test_a_file_in_place_of_the_data_folder_is_noticed(services, tmp_path, below):
    (tmp_path / "file").touch()
    settings = services.load_settings().model_copy(update={"data_dir": tmp_path / "file" / below})
    told = describe_machine(inspect_machine(replace(services, load_settings=lambda: settings)))
    assert f"{tmp_path / 'file'} is a file" in told
    assert "set REELRAY_DATA_DIR" in told


def test_gpu_list_is_parsed(monkeypatch):
    class Done:
        stdout = "NVIDIA H200, 143771, 9.0, 580.82.07\nNVIDIA GB10, [N/A], 12.1, 580.1\nbroken line\n"

    monkeypatch.setattr(machine.subprocess, "run", lambda *_args, **_kwargs: Done)
    first, second = list_gpus()
    assert (first.name, first.memory_bytes, first.capability, first.driver) == (
        "NVIDIA H200",
        143771 * 2**20,
        "9.0",
        "580.82.07",
    )
    assert second.memory_bytes == 0


def test_machine_facts():
    assert read_cpu().cores >= 1
    assert read_cpu().model
    assert memory_bytes() > 10**8


def test_container_limit_counts(monkeypatch, tmp_path):
    (tmp_path / "max").write_text("123456789\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(machine, "CGROUP_LIMITS", (tmp_path / "none", tmp_path / "max", tmp_path / "missing"))
    assert memory_bytes() == 123456789
