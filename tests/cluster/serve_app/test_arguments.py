"""What the application is built from: checked before anything starts."""

import pytest
from pydantic import ValidationError

from reelray.cluster.gateway.serving import make_guard
from reelray.cluster.serve_app.arguments import AppArguments, GatewayArguments, ModelArguments
from reelray.cluster.serve_app.beside import read_arguments
from reelray.cluster.serve_app.gateway_replica import read_token, serve_options
from reelray.proto.errors import InputError


def test_little_has_to_be_said():
    arguments = AppArguments.model_validate({"models": [{"model": "sprites"}]})
    assert arguments.gateway.address == "127.0.0.1:50051"
    assert arguments.models[0].bundles == [{"CPU": 1.0, "GPU": 1.0}]
    assert arguments.grace_s == 30.0


@pytest.mark.parametrize(
    ("wish", "bundles"),
    [
        ({"device": "cpu"}, [{"CPU": 1.0}]),
        ({"device": "cpu", "gpus": 2, "cpus": 3}, [{"CPU": 3.0}, {"CPU": 0.01}, {"CPU": 0.01}]),
        ({"resources": {"big": 0.5}}, [{"CPU": 1.0, "GPU": 1.0, "big": 0.5}]),
        ({"gpus": 3, "resources": {"big": 1}}, [{"CPU": 1.0, "big": 1.0}, *[{"GPU": 1.0}] * 3]),
    ],
)
def test_a_leader_and_each_rank_have_places(wish, bundles):
    assert ModelArguments.model_validate({"model": "m", **wish}).bundles == bundles


def test_the_name_is_the_last_part_of_a_folder():
    assert ModelArguments(model="/models/wan2.1-t2v-1.3b").name == "wan2.1-t2v-1.3b"


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"models": []}, "at least 1 item"),
        ({"models": [{"model": "a"}, {"model": "/x/a"}]}, "model 'a' was named twice"),
        ({"models": [{"model": "a", "gpus": 0}]}, "greater than or equal to 1"),
        ({"models": [{"model": "a", "gpu": 1}]}, "Extra inputs are not permitted"),
        ({"models": [{"model": "a", "layout": "ulyses=2"}]}, "ulyses"),
        ({"models": [{"model": "a", "device": "auto"}]}, "'cuda' or 'cpu'"),
        ({"models": [{"model": "a", "resources": {"x": 0}}]}, "greater than 0"),
        ({"gateway": {"address": "0.0.0.0:50051"}}, "can be reached from other machines; give token_file"),
        ({"gateway": {"address": "here"}}, "write HOST:PORT"),
        ({"gateway": {"tls_key": "key.pem"}}, "belong together"),
        ({"gateway": {"http_port": 8000}}, "give files, too"),
        ({"gateway": {"http_port": 70000, "files": "f"}}, "less than or equal to 65535"),
        ({"gateway": {"token": "a-token-of-length"}}, "Extra inputs are not permitted"),
        ({"gateway": {"files": "x", "allow_urls": ["cdn.example"]}}, "no address"),
        ({"gateway": {"allow_webhooks": ["https://cdn.example/"]}}, "give files"),
        ({"gateway": {"asset_uploads": 0}}, "greater than or equal to 1"),
        ({"gateway": {"quotas": {"everybody": {"frames_per_day": 0}}}}, "greater than or equal to 1"),
        ({"gateway": {"quotas": {"everybody": {"open_live": 1}}}}, "give files"),
        ({"grace_s": -1}, "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_is_refused(wrong, text):
    with pytest.raises(ValidationError, match=text):
        AppArguments.model_validate({"models": [{"model": "a"}], **wrong})


def test_a_token_is_read_from_its_file_and_checked(tmp_path):
    file = tmp_path / "token"
    file.write_text("a-token-of-length\n")
    options = serve_options(GatewayArguments(address="0.0.0.0:1", token_file=file))
    assert (options.address, options.token) == ("0.0.0.0:1", "a-token-of-length")
    assert "a-token" not in repr(options)
    with pytest.raises(InputError, match="cannot be read"):
        read_token(tmp_path / "nowhere")


def test_tenants_come_from_a_file_of_their_own(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("ann a-token-of-ann-here\nbob a-token-of-bob-here\n")
    guard = make_guard(serve_options(GatewayArguments(address="0.0.0.0:1", tokens_file=file)))
    assert guard.callers.knows([("authorization", "Bearer a-token-of-bob-here")]) == "bob"
    assert guard.callers.knows([("authorization", "Bearer a-token-of-eve-here")]) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("models: [", "cannot be read"),
        ("models: [{model: a, gpus: two}]", "models.0.gpus: Input should be a valid integer"),
        ("", "app.yaml': Input should be a valid dictionary"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_file_of_arguments_that_is_none_is_one_clear_error(tmp_path, text, fault):
    file = tmp_path / "app.yaml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=fault):
        read_arguments(file)
