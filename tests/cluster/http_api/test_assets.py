"""`/v1/assets`: forms as they come, and what is refused."""

import hashlib
import socket
from dataclasses import replace

import httpx2
import pytest

from reelray.cluster.assets.asset import AssetRule
from reelray.cluster.gateway.callers import Callers
from reelray.cluster.http_api import form_stream
from tests.support.asset_calls import png, wav
from tests.support.http_gateway import serve_http

PNG = png()
DIGEST = hashlib.sha256(PNG).hexdigest()
KEYS = {"a-token-of-ann-here": "ann", "a-token-of-bob-here": "bob"}


def upload(http, data=PNG, **said):
    return http.post("/v1/assets", files={"file": ("../../x.png", data)}, data=said)


def told(answer):
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def kept(shelf):
    return [path.read_bytes() for path in shelf.files.glob("*/assets/*")]


def test_from_upload_to_its_end(http, shelf):
    answer = upload(http, sha256=DIGEST, media_type="image/png", keep_seconds="100")
    asset = answer.json()
    assert (answer.status_code, asset["id"], asset["bytes"], asset["media_type"]) == (
        201,
        DIGEST,
        len(PNG),
        "image/png",
    )
    assert asset["expires_at"] - asset["created_at"] in {100, 101}
    assert kept(shelf) == [PNG]
    again = upload(http)  # without its digest it has to be read first
    assert (again.status_code, again.json()["id"], kept(shelf)) == (200, DIGEST, [PNG])
    assert http.get(f"/v1/assets/{DIGEST}").json()["expires_at"] > asset["expires_at"]
    others = [upload(http, wav(count)).json()["id"] for count in (100, 200)]
    page = http.get("/v1/assets?limit=2").json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == (others[::-1], True)
    rest = http.get(f"/v1/assets?after={others[0]}").json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([DIGEST], False)
    assert http.delete(f"/v1/assets/{DIGEST}").json()["deleted"]
    for answer in (http.get(f"/v1/assets/{DIGEST}"), http.delete(f"/v1/assets/{DIGEST}")):
        assert told(answer)[:2] == (404, "unknown_asset")


def test_other_tenants_assets_are_as_unknown_as_none(shelf):
    with serve_http(shelf, callers=Callers(KEYS)) as served:
        ann, bob = (httpx2.Client(base_url=served.url, headers={"authorization": f"Bearer {key}"}) for key in KEYS)
        with ann, bob:
            upload(ann)
            for call in (bob.get, bob.delete):
                theirs, nones = (told(call(f"/v1/assets/{one}")) for one in (DIGEST, "f" * 64))
                assert theirs[2].replace(DIGEST, "") == nones[2].replace("f" * 64, "")
                assert theirs[0] == nones[0] == 404
            assert bob.get("/v1/assets").json()["data"] == []
            for crafted in ("..%2fann%2fassets", "%2e%2e", "..", DIGEST + "%00"):
                assert bob.get(f"/v1/assets/{crafted}").status_code == 404
            assert ann.get(f"/v1/assets/{DIGEST}").status_code == 200


def form(*fields, end=b"--b--\r\n"):
    parts = (b"--b\r\ncontent-disposition: form-data; " + head + b"\r\n\r\n" + data + b"\r\n" for head, data in fields)
    return b"".join(parts) + end


FILE = (b'name="file"; filename="x"', PNG)
WRONG = [
    (form(), 400, "invalid_input", "no file"),
    (form((b'name="file"', PNG)), 400, "invalid_input", "too long"),
    (form((b'name="other"; filename="x"', PNG)), 400, "invalid_input", "the only one taken"),
    (form((b'name="name"', b"x"), FILE), 400, "invalid_input", "none of sha256"),
    (form((b'name="sha256"', b"0" * 64), FILE), 400, "bad_upload", "SHA-256"),
    (form((b'name="keep_seconds"', b"-1"), FILE), 400, "invalid_input", "keep_seconds"),
    (form(*[(b'name="keep_seconds"', b"1")] * 2, FILE), 400, "invalid_input", "twice"),
    (form(FILE, (b'name="sha256"', b"0" * 64)), 400, "invalid_input", "last"),
    (form(FILE, end=b""), 400, "bad_upload", "cut off"),
    (form(FILE)[:-60], 400, "bad_upload", "cut off"),
    (b"something before\r\n" + form(FILE), 400, "invalid_input", "before its first field"),
    (b"--b\r\nno head", 400, "bad_upload", "cut off"),
    (form((b'name="file"; filename="x"', b"#!/bin/sh\n")), 415, "wrong_media", "none of those"),
    (form((b'name="file"; filename="x"', b"")), 415, "wrong_media", "none of those"),
    (form((b'name="media_type"', b"image/gif"), FILE), 415, "wrong_media", "is image/png"),
    (b"", 400, "bad_upload", "cut off"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_nothing_is_left_of_what_was_refused(http, shelf, hands, number):
    body, status, code, text = WRONG[number]
    answer = http.post("/v1/assets", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert (*told(answer)[:2], text in told(answer)[2]) == (status, code, True), told(answer)
    assert kept(shelf) == []
    connection = hands.store.connection
    assert hands.do(connection.command("ZCARD", connection.key("uploads", "default"))) == 0


def test_what_is_too_large_or_of_no_length_is_refused_at_once(shelf):
    with (
        serve_http(replace(shelf, asset_rule=AssetRule(largest_bytes=1000))) as served,
        httpx2.Client(base_url=served.url) as http,
    ):
        assert told(upload(http, wav(1000)))[:2] == (413, "too_large")
        pieces = (form(FILE) for _ in range(1))
        answer = http.post("/v1/assets", content=pieces, headers={"content-type": "multipart/form-data; boundary=b"})
        assert answer.status_code == 411
        assert http.post("/v1/assets", json={"file": "x"}).status_code == 400


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_forms_are_the_same_however_they_are_cut(served, shelf, size):
    data = wav(60) + b"\r\n--b\r-\r\n--c" + bytes(range(256))
    body = form((b'name="keep_seconds"', b"5"), (b'name="file"; filename="x"', data))
    head = b"POST /v1/assets HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=bb\r\n"
    body = body.replace(b"--b\r\ncontent", b"--bb\r\ncontent").replace(b"--b--", b"--bb--")
    with socket.create_connection(("127.0.0.1", served.server.port), 10) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(head + b"content-length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), size):
            line.sendall(body[at : at + size])
        assert line.recv(100).startswith(b"HTTP/1.1 201")
    assert kept(shelf) == [data]


def test_who_stops_in_the_middle_is_left(served, shelf, monkeypatch):
    monkeypatch.setattr(form_stream, "SILENT_S", 0.2)
    with socket.create_connection(("127.0.0.1", served.server.port), 10) as line:
        line.sendall(
            b"POST /v1/assets HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary=b\r\n"
            b"content-length: 100000\r\n\r\n" + form(FILE)[:150]
        )
        assert line.recv(1000).startswith(b"HTTP/1.1 408")
    assert kept(shelf) == []
