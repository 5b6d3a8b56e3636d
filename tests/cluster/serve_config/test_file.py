"""A file for `reelray serve --config`: what it means, what is wrong with it, and who counts more."""

import json
from dataclasses import replace

import pytest

from reelray.cluster.assets.asset import AssetRule
from reelray.cluster.gateway.serving import make_guard
from reelray.cluster.gateway.tenant_quotas import TenantQuota, TenantQuotas
from reelray.cluster.serve_config.file import read_config
from reelray.cluster.serve_config.merging import merge_options
from reelray.proto.errors import InputError
from tests.support.commands import ROOT, CommandLine
from tests.support.fake_engine import FakeEngine

WHOLE = """
models:
  - model: ./fake
    count: 2
    device: cpu
    gpus: 2
    layout: cfg=2
    decode_ranks: auto
  - model: other
    engine: local
    preload: false
    idle_s: 30
default: other
address: 127.0.0.1:50991
http_port: off
data: kept
tokens: tokens.txt
keep_days: 3
keep_gb: 2
grace_s: 5
allow_urls: [https://cdn.example/in/]
asset_days: 2
asset_gb: 0.5
asset_mb: 20
asset_count: 30
asset_uploads: 3
quotas:
  everybody: {open_renders: 4, frames_per_day: 1000}
  tenants:
    ann: {frames_per_day: 9000, open_renders: null}
    bob: {renders_per_minute: 2, live_per_minute: 3, open_live: 5}
"""
SAID = {
    **dict.fromkeys(
        ("model", "allow_url", "allow_webhook", "token", "tokens", "tls_cert", "tls_key", "data", "keep_gb")
    ),
    **dict.fromkeys(("device", "engine", "gpus", "layout", "decode_ranks", "weights", "encoder")),
    "address": "127.0.0.1:50051",
    "http_port": "8000",
    "keep_days": 7.0,
    "asset_days": 7.0,
    "asset_gb": 10.0,
    "asset_mb": 2000.0,
    "asset_count": 10_000,
    "asset_uploads": 8,
    "grace": 30.0,
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "serve.yaml"
    path.write_text(WHOLE)
    return path


def test_a_file_says_it_all(file):
    options = merge_options(SAID, (), file)
    other, fake = options.groups
    assert (other.model, other.preload, other.idle_s, other.count, other.place.engine) == (
        "other",
        False,
        30,
        1,
        "local",
    )
    assert (fake.model, fake.count, fake.place.gpus, fake.place.layout) == (str(file.parent / "./fake"), 2, 2, "cfg=2")
    assert (options.address, options.http_port, options.grace_s) == ("127.0.0.1:50991", None, 5)
    assert (options.allow_urls, options.allow_webhooks) == (("https://cdn.example/in/",), ())
    assert (options.data, options.tokens) == (file.parent / "kept", file.parent / "tokens.txt")
    assert (options.keep.ttl_s, options.keep.most_bytes) == (3 * 86400, 2 * 10**9)
    assert options.assets == AssetRule(
        keep_s=2 * 86400, most_bytes=500_000_000, largest_bytes=20_000_000, most_assets=30, most_uploads=3
    )
    assert [options.quotas.of(tenant) for tenant in ("ann", "bob", "carol")] == [
        TenantQuota(frames_per_day=9000),
        TenantQuota(renders_per_minute=2, open_renders=4, frames_per_day=1000, live_per_minute=3, open_live=5),
        TenantQuota(open_renders=4, frames_per_day=1000),
    ]
    assert make_guard(replace(options, tokens=None)).quotas == options.quotas


def test_the_command_line_counts_more(file, tmp_path):
    said = {**SAID, "address": "127.0.0.1:1", "gpus": 4, "model": ["fake", "third"], "data": tmp_path / "x"}
    options = merge_options(said, {"address", "gpus", "model", "data"}, file)
    assert [(group.model, group.count, group.place.gpus) for group in options.groups] == [
        (str(file.parent / "./fake"), 2, 4),
        ("third", 1, 4),
    ]
    assert (options.address, options.data, options.http_port) == ("127.0.0.1:1", tmp_path / "x", None)


def test_without_a_file_it_is_as_ever():
    options = merge_options({**SAID, "model": ["a"], "device": "cpu"}, {"model", "device"}, None)
    assert [(group.model, group.count, group.place.device) for group in options.groups] == [("a", 1, "cpu")]
    assert (options.http_port, options.data, options.keep.most_bytes) == (8000, None, None)
    plain = merge_options(SAID, (), None)
    assert (plain.groups, plain.assets, plain.quotas) == ([], AssetRule(), TenantQuotas())
    few = {"asset_count": 3, "asset_gb": 1.5}
    assert merge_options({**SAID, **few}, few, None).assets == AssetRule(most_assets=3, most_bytes=1_500_000_000)


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return CommandLine(tmp_path / "work", FakeEngine(), capsys)


def test_the_example_is_one():
    options = merge_options(SAID, (), ROOT / "deploy" / "serve.yaml")
    assert [(group.model, group.count, group.preload) for group in options.groups] == [
        ("sprites", 1, False),
        ("sprites-causal", 4, True),
    ]


ONE = "models: [{model: sprites}]\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "models: [{model: sprites, gpu: 2}]",
            r"models\[0\].gpu is no key; did you mean gpus\? keys here: model, count",
        ),
        ("models: [{model: a}, {model: b, count: 0}]", r"models\[1\].count is 0: .*greater than or equal to 1"),
        ("models: [{count: 2}]", r"models\[0\].model is missing"),
        ("models: []", r"models is \[\]: "),
        ("addr: x\n" + ONE, r"addr is no key; did you mean address\?"),
        (ONE + "default: other", "default is 'other'; it must be one of sprites"),
        (ONE + "http_port: 99999", "http_port is 99999: it must be 1 to 65535, free or off"),
        (ONE + "address: here", "address is 'here': write HOST:PORT"),
        (
            "models: [{model: a, layout: bla=2}]",
            r"models\[0\].layout is 'bla=2': layout axis 'bla' is unknown; allowed are",
        ),
        ("models: [{model: a, decode_ranks: some}]", r"decode_ranks is 'some': .*integer.*; or: .*'auto'"),
        (ONE + "allow_urls: [https://a.example/, cdn]", r"allow_urls is .*'cdn' is no address; write https://HOST"),
        (ONE + "allow_webhooks: ['https://a.example/?b']", r"allow_webhooks is .* has a question mark"),
        (ONE + "asset_gb: 0", "asset_gb is 0: .*greater than or equal to 0.001"),
        (ONE + "asset_uploads: 17", "asset_uploads is 17: .*less than or equal to 16"),
        (ONE + "asset_size: 1", r"asset_size is no key; did you mean asset_\w+\?"),
        (ONE + "quotas: {all: {}}", r"quotas.all is no key; .*keys here: everybody, tenants"),
        (
            ONE + "quotas: {everybody: {frames: 1}}",
            r"quotas.everybody.frames is no key; .*keys here: renders_per_minute",
        ),
        (ONE + "quotas: {tenants: {ann: {open_renders: -1}}}", r"quotas.tenants.ann.open_renders is -1: .*equal to 0"),
        (ONE + "quotas: {tenants: {'a:b': {}}}", r"quotas.tenants is .*: tenant is 'a:b': allowed are"),
        (ONE + "grace_s: .inf", "grace_s is inf: .*finite"),
        (ONE + "data: a\ndata: b", r"is no YAML: data is given twice.*line 3"),
        ("models: [{model: a, count: 1, count: 2}]", "is no YAML: count is given twice"),
        (ONE + "#" * 1_000_000, "has more than 1000000 bytes"),
        ("- x", "must be a mapping that begins with 'models:'"),
        ("a: [", "is no YAML: "),
        ("", "must be a mapping"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path, text, told):
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=told) as raised:
        read_config(path)
    assert raised.value.message.startswith(f"'{path}'")
    assert "\n" not in raised.value.message


def test_folders_of_models_are_meant_from_where_the_file_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    names = ("checkpoints/a", "./b", "~/c", "/srv/d", "e")
    (tmp_path / "serve.yaml").write_text(f"models: [{', '.join(f'{{model: {name}}}' for name in names)}]")
    options = merge_options(SAID, (), tmp_path / "serve.yaml")
    found = [group.model for group in options.groups]
    assert found == [f"{tmp_path}/checkpoints/a", f"{tmp_path}/b", "/home/ann/c", "/srv/d", "e"]


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_config(tmp_path / "none.yaml")


def test_check_prints_what_would_be_started_and_starts_nothing(cli):
    text = "models: [{model: fake, engine: local, count: 3, preload: false, idle_s: 9}]\ndata: d\nhttp_port: free\n"
    (cli.cwd / "serve.yaml").write_text(text)
    ran = cli.run("serve", "--config", "serve.yaml", "--check")
    assert (ran.code, cli.engine.requests, cli.files()) == (0, [], ["serve.yaml"])
    assert "fake: 3 engines (local)" in ran.out
    assert "loaded when asked for, put away after 9 s" in ran.out
    ran = cli.run("serve", "--config", "serve.yaml", "--check", "--json", "--address", "127.0.0.1:1")
    said = json.loads(ran.out)
    assert (said["grpc"], said["http_port"], said["default"]) == ("127.0.0.1:1", "free", "fake")
    assert [(one["model"], one["count"], one["preload"], one["idle_s"]) for one in said["models"]] == [
        ("fake", 3, False, 9)
    ]
    ran = cli.run("serve", "--config", "serve.yaml", "--check", "--address", "0.0.0.0:1")
    assert ran.code == 2
    assert "can be reached from other machines" in ran.err
    for option, value, told in [
        ("--allow-url", "cdn", "--allow-url: 'cdn' is no address"),
        ("--allow-webhook", "https://a.example/", "needs a key to sign with"),
        ("--grace", "inf", "grace is inf"),
    ]:
        ran = cli.run("serve", "--config", "serve.yaml", "--check", option, value)
        assert (ran.code, told in ran.err) == (2, True), (option, ran.err)
    (cli.cwd / "serve.yaml").write_text("models: [{model: fake, count: x}]")
    ran = cli.run("serve", "--config", "serve.yaml", "--check")
    assert (ran.code, len(ran.error_lines)) == (2, 1)
