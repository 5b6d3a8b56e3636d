"""The probe of containers, also where a gateway speaks TLS under a name that is not its address."""

import subprocess
import sys

import pytest

from reelray.cluster.gateway.serving import ServeOptions, make_guard
from reelray.cluster.serve_app import probe
from reelray.cluster.serve_app.probe import takes_calls
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import serve


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    order = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=videos.example"
    names = ("-addext", "subjectAltName=DNS:videos.example")
    subprocess.run((*order.split(), *names), cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_a_gateway_is_known_by_the_name_of_its_certificate(certificate):
    file, key = certificate
    guard = make_guard(ServeOptions(certificate=file, key=key))
    with serve(FakeEngine(), guard=guard) as address:
        assert takes_calls(address, certificate=file, name="videos.example")
        assert not takes_calls(address, certificate=file)
        assert not takes_calls(address, certificate=file, name="other.example")
        assert not takes_calls(address)


def test_without_tls_nothing_has_to_be_said_and_nobody_there_is_no():
    with serve(FakeEngine()) as address:
        assert takes_calls(address)
    assert not takes_calls(address, within_s=1)


def test_a_certificate_that_is_not_there_is_one_clear_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["probe", "127.0.0.1:1", "--tls-ca", str(tmp_path / "none.pem")])
    assert probe.main() == 2
    assert capsys.readouterr().err.endswith("none.pem' cannot be read: No such file or directory\n")
