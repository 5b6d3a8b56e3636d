"""`reelray upload` and `reelray.Client.upload` against a server, and videos that begin with what was uploaded."""

import hashlib
import json
from dataclasses import replace

import pytest

import reelray
from reelray.cluster.assets.asset import AssetRule
from reelray.cluster.outbound.allow_list import AllowList, Reach
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.spec import RenderSpec
from reelray.cluster.store.connection import Connection
from reelray.cluster.store.names import JobRef
from reelray.proto.errors import InputError, MediaError, QuotaError, StoreError
from tests.support.asset_calls import GREEN, png, wav
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import serve
from tests.support.http_gateway import picture_entry
from tests.support.web import start_web

RGB = bytes(GREEN) * (96 * 64)


@pytest.fixture
def address(shelf):
    with serve(FakeEngine(), entries=[picture_entry()], shelf=shelf) as address:
        yield address


@pytest.fixture
def picture(cli):
    (cli.cwd / "green.png").write_bytes(png())
    return "green.png"


def spec_of(hands, render_id):
    return RenderSpec.from_json(hands.do(hands.store.jobs.get(JobRef(tenant="default", id=render_id))).spec)


def test_from_a_file_to_a_render(cli, address, picture, hands, shelf):
    ran = cli.run("upload", picture, "--server", address)
    asset = ran.out.strip()
    assert (ran.code, asset) == (0, hashlib.sha256(png()).hexdigest())
    again = json.loads(cli.run("upload", picture, "--json", "--keep-hours", 1, "--server", address).out)
    assert (again["file"], again["id"], again["bytes"], again["fresh"]) == (picture, asset, len(png()), False)
    made = cli.run("submit", "a disc", "--size", "96x64", "--image", f"asset:{asset}", "--server", address)
    assert Artifacts(shelf.files).read(spec_of(hands, made.out.strip()).picture) == RGB


def test_what_cannot_be_uploaded_is_one_clear_line(cli, address, picture):
    (cli.cwd / "a.txt").write_text("hello, this is a text")
    (cli.cwd / "empty").touch()
    for file, text in (("none.png", "cannot be read"), ("a.txt", "none of those"), ("empty", "is empty")):
        ran = cli.run("upload", picture, file, "--server", address)
        assert (ran.code, len(ran.error_lines), text in ran.err) == (2, 1, True)
    unknown = cli.run("submit", "a disc", "--image", "asset:none", "--server", address)
    assert (unknown.code, "no asset has such an id" in unknown.err) == (2, True)


def test_the_server_fetches_what_it_may(cli, shelf, hands):
    with start_web() as web:
        web.page("/open/green.png", png())
        reach = Reach(urls=AllowList.of([f"{web.url}/open"]))
        with serve(FakeEngine(), entries=[picture_entry()], shelf=replace(shelf, reach=reach)) as address:
            said = ("submit", "a disc", "--size", "96x64", "--server", address)
            made = cli.run(*said, "--image", f"{web.url}/open/green.png")
            refused = cli.run(*said, "--image", f"{web.url}/secret")
    assert Artifacts(shelf.files).read(spec_of(hands, made.out.strip()).picture) == RGB
    assert (refused.code, "not told to trust" in refused.err) == (2, True)


def test_the_client(shelf, tmp_path):
    rule = AssetRule(most_bytes=3000)
    with (
        serve(FakeEngine(), entries=[picture_entry()], shelf=replace(shelf, asset_rule=rule)) as address,
        reelray.Client(address) as client,
    ):
        file = tmp_path / "sound.wav"
        file.write_bytes(wav(2000))
        first, again = client.upload(file, keep_s=60), client.upload(str(file))
        assert (first.media_type, first.fresh, again.fresh, again.id) == ("audio/wav", True, False, first.id)
        assert again.expires > first.expires
        file.write_bytes(wav(2500))
        with pytest.raises(QuotaError, match="asset-bytes"):
            client.upload(file)
        with pytest.raises(MediaError, match="a picture is needed"):
            client.submit("a disc", image=f"asset:{first.id}")
        with pytest.raises(InputError, match="keep_s"):
            client.upload(file, keep_s=-1)


def test_an_upload_goes_on_after_a_server_was_away(shelf, tmp_path, monkeypatch):
    (tmp_path / "sound.wav").write_bytes(wav(2_500_000))
    run, failures = Connection.run, [1, 1]

    async def shaky(self, script, *args):
        if failures:
            failures.pop()
            raise StoreError("away")
        return await run(self, script, *args)

    monkeypatch.setattr(Connection, "run", shaky)
    with serve(FakeEngine(), shelf=shelf) as address, reelray.Client(address) as client:
        assert client.upload(tmp_path / "sound.wav").fresh
    assert failures == []
    assert [path.stat().st_size for path in shelf.files.glob("default/assets/*")] == [2_500_012]
