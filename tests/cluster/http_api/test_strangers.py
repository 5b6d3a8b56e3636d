"""Callers that mean no good: whatever they send, they get a precise status, and the server goes on."""

import json
import random
import socket

import pytest

from reelray.cluster.gateway.callers import Callers
from tests.support.http_gateway import serve_http

HEAD = b"host: localhost\r\nconnection: close\r\n"
FORM = b"content-type: multipart/form-data; boundary=b\r\n"
WISH = b'{"prompt": "a disc", "seconds": 1.5, "size": "96x64", "seed": 7, "changes": [{"seconds": 1, "prompt": "x"}]}'


def request(line, heads=b"", body=b""):
    return b"%s HTTP/1.1\r\n%s%scontent-length: %d\r\n\r\n%s" % (line, HEAD, heads, len(body), body)


def create(body, heads=b"content-type: application/json\r\n"):
    return request(b"POST /v1/videos", heads, body)


def form(disposition, data=b"x"):
    return create(b"--b\r\ncontent-disposition: %s\r\n\r\n%s\r\n--b--\r\n" % (disposition, data), FORM)


def say(served, data):
    """All that the server says to some bytes until it hangs up."""
    with socket.create_connection(("127.0.0.1", served.server.port), 20) as line:
        said = b""
        try:
            line.sendall(data)
            while piece := line.recv(65536):
                said += piece
        except ConnectionError:  # it hung up before it had read all
            pass
        return said


def status_of(served, data):
    said = say(served, data)
    assert b"Traceback" not in said, data[:300]
    assert b'File "' not in said, data[:300]
    return int(said[9:12]) if said.startswith(b"HTTP/1.1 ") else None


NUMBERS = ["NaN", "-Infinity", "1e308", "1e-320", "-1", "0", "null", "[]", '"\\ud800"', "9" * 30, "9" * 5000]
FIELDS = ["guidance", "fps", "seconds", "frames", "seed", "steps", "priority", "size", "model", "decoder", "sparsity"]
HOSTILE = [
    *(create(b'{"prompt": "x", "%s": %s}' % (name.encode(), n.encode())) for name in FIELDS for n in NUMBERS),
    *(create(b'{"prompt": "x", "changes": [{"prompt": "y", "seconds": %s}]}' % n.encode()) for n in NUMBERS),
    create(b'{"prompt": "x", "\\ud800": 1}'),
    create(json.dumps({"prompt": "x", "size": "1" * 5000 + "x5"}).encode()),
    create(b'{"prompt": "x", "input_reference": {"image_url": "data:;base64,\\ud800"}}'),
    create(b'{"prompt": "x", "input_reference": {"image_url": "data:;base64,\xc3\xa9"}}'),
    create(b'{"prompt": "x", "input_reference": {"image_url": "data:\\ud800;base64,AA=="}}'),
    create(b"{" + b",".join(b'"a%d":1' % n for n in range(100_000)) + b"}"),
    create(b"x", b"content-type: multipart/form-data; boundary*" + b"9" * 5000 + b"=x\r\n"),
    create(b"x", b"content-type: multipart/form-data; boundary*=no-such-code'x'%ff\r\n"),
    create(b"x", b"content-type: multipart/form-data; " + b';"' * 15_000 + b"\r\n"),
    form(b"form-data; name*" + b"9" * 3900 + b"=x"),
    form(b"form-data; name*=no-such-code'x'%ff"),
    form(b'form-data; name="' + b'\\"' * 1900),
    form(b"form-data; name=changes", b"[" * 100_000),
    form(b"form-data; name=seconds", b"1" * 5000),
    request(b"GET /v1/videos", b"origin: http://[\r\n"),
    request(b"GET /v1/videos", b"authorization: \xff\r\n"),
    request(b"GET /v1/videos/x/content", b"range: bytes=\xb2-\r\n"),
    request(b"GET /v1/videos/x/events", b"last-event-id: \xb2\r\n"),
    *(request(b"GET /v1/videos" + rest) for rest in (b"/%00", b"/%ff", b"/%ed%a0%80", b"?after=%ff", b"/\xff", b"/?x")),
    *(request(method + b" /v1/videos") for method in (b"TRACE", b"CONNECT", b"NOBODY", b"OPTIONS")),
]


def test_what_is_meant_to_break_it_is_refused(served):
    for data in HOSTILE:
        assert status_of(served, data) in {200, 400, 403, 404, 405, 409}, data[:300]


SEEDS = [
    create(WISH),
    form(b'form-data; name="prompt"', b"a disc"),
    request(b"GET /v1/videos?limit=3&order=asc&after=x"),
    request(b"GET /v1/videos/abc/content?variant=video", b"range: bytes=0-7\r\nif-range: x\r\n"),
    request(b"GET /v1/videos/abc/events?after=3", b"last-event-id: 3\r\n"),
    request(b"DELETE /v1/videos/abc"),
    request(b"POST /v1/videos/abc/remix", b"idempotency-key: k\r\n", b'{"prompt": "a star"}'),
    request(b"GET /metrics", b"origin: http://localhost\r\n"),
]


def mutated(rng, data):
    """The same with a few bytes or parts changed, doubled, or left out."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        end = min(len(data), at + rng.choice((1, 1, 2, 8, 40)))
        piece = data[at:end]
        other = rng.choice(
            (b"", piece * 2, piece[::-1], rng.randbytes(len(piece)), b"\r\n", b'"', b"%", b"\xed\xa0\x80")
        )
        data = data[:at] + other + data[end:]
        if not data:
            return b"\r\n"
    return data


def test_requests_with_random_changes_have_a_status_of_the_caller_s_fault(served, monkeypatch):
    monkeypatch.setattr("reelray.cluster.http_api.connections.HEADS_S", 0.05)  # many never end their headers
    monkeypatch.setattr("reelray.cluster.http_api.bodies.SLOWEST_BODY_S", 0.05)
    rng = random.Random(5)
    for _ in range(400):
        data = mutated(rng, rng.choice(SEEDS))
        status = status_of(served, data)
        assert status is None or status < 500, data
    assert status_of(served, request(b"GET /healthz")) == 200


def test_only_the_health_is_told_without_a_token_however_its_path_is_written(shelf):
    with serve_http(shelf, callers=Callers({"a-token-of-ann-here": "ann"})) as served:
        paths = [
            "/v1/videos",
            "/v1/videos/",
            "//v1/videos",
            "/healthz/../v1/videos",
            "/healthz%2f",
            "/metrics",
            "/%6detrics",
        ]
        for path in (*paths, "/healthz;/v1/videos", "http://localhost/healthz", "/HEALTHZ", "/healthz/"):
            assert status_of(served, request(b"GET " + path.encode())) == 401, path
        for word in (
            b"",
            b"Bearer",
            b"Bearer ",
            b"bearer a-token-of-ann-here",
            b"Bearer a-token-of-ann-her",
            b"Basic x",
        ):
            assert status_of(served, request(b"GET /v1/videos", b"authorization: %s\r\n" % word)) == 401, word
        assert status_of(served, request(b"GET /healthz?x=y")) == 200


@pytest.mark.parametrize("path", ["/v1/videos/", "/healthz/", "/v1/videos/x/"])
def test_nobody_is_sent_elsewhere(served, path):
    said = say(served, request(b"GET %s" % path.encode()))
    assert said.startswith(b"HTTP/1.1 404")
    assert b"location" not in said.lower()
