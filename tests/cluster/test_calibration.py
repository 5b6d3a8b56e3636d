"""Calibration tables as files."""

import json

import pytest

from reelray.cluster.calibration import load_calibration, read_calibration


@pytest.fixture
def data():
    from importlib import resources

    return json.loads((resources.files("reelray.scheduler.plan") / "tables" / "h200.json").read_text())


def write(tmp_path, data):
    (tmp_path / "t.json").write_text(json.dumps(data))
    return tmp_path / "t.json"


def test_the_packaged_table_is_read(tmp_path, data):
    assert load_calibration().name == "h200"
    assert read_calibration(write(tmp_path, data)) == load_calibration()


@pytest.mark.parametrize("part", ["source", "date", "kind", "value"])
def test_every_number_has_an_origin(tmp_path, data, part):
    del data["numbers"]["host_gb_s"][part]
    with pytest.raises(ValueError, match=rf"t\.json: numbers\.host_gb_s\.{part}: Field required"):
        read_calibration(write(tmp_path, data))


def test_missing_unknown_and_wrong_numbers_are_named(tmp_path, data):
    for change, word in (
        (lambda n: n.pop("text_tflops"), "numbers.text_tflops: Field required"),
        (lambda n: n.update(clock=n["host_gb_s"]), "numbers.clock: Extra inputs"),
        (lambda n: n["host_gb_s"].update(value="fast"), "numbers.host_gb_s.value"),
        (lambda n: n["host_gb_s"].update(value=0), "host_gb_s is 0"),
        (lambda n: n["gemm_tflops"].update(value=[]), "curve holds"),
        (lambda n: n["host_gb_s"].update(kind="guessed"), "numbers.host_gb_s.kind"),
    ):
        broken = json.loads(json.dumps(data))
        change(broken["numbers"])
        with pytest.raises(ValueError, match=word):
            read_calibration(write(tmp_path, broken))


def test_what_is_no_json_is_told(tmp_path):
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(ValueError, match=r"t\.json"):
        read_calibration(tmp_path / "t.json")
