"""What goes over the wire, to callers that are none of OpenAI's: ranges, events, metrics, health, refusals."""

import json
import socket
import threading

import httpx2
import pytest

from reelray.cluster.gateway.callers import Callers
from reelray.cluster.http_api import bodies, connections, videos
from reelray.proto.errors import StoreError
from tests.support.http_gateway import serve_http

WHOLE = bytes(range(256)) * 10
BOUNDARY = {"content-type": "multipart/form-data; boundary=b"}


def create(http, **said):
    return http.post("/v1/videos", json={"prompt": "a disc", **said}).json()["id"]


@pytest.fixture
def finished(http, hands):
    video_id = create(http)
    hands.claim()
    hands.commit(WHOLE)
    hands.finish()
    return f"/v1/videos/{video_id}"


def told(response):
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["code"], error["message"]


def test_ranges_are_those_of_the_file(http, finished):
    size = len(WHOLE)
    whole = http.get(f"{finished}/content")
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, WHOLE, "video/mp4")
    for header, begin, end in (("0-0", 0, 1), ("5-99", 5, 100), ("2500-", 2500, size), ("-7", size - 7, size)):
        answer = http.get(f"{finished}/content", headers={"range": f"bytes={header}"})
        assert (answer.status_code, answer.content) == (206, WHOLE[begin:end])
        assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/{size}"
    for ignored in ("bytes=9-5", "bytes=1-2,5-6", "lines=1-2", "bytes=-"):
        assert http.get(f"{finished}/content", headers={"range": ignored}).content == WHOLE
    for beyond in (f"bytes={size}-", "bytes=-0"):
        answer = http.get(f"{finished}/content", headers={"range": beyond})
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{size}")
    stale = http.get(f"{finished}/content", headers={"range": "bytes=0-1", "if-range": '"of another file"'})
    assert (stale.status_code, stale.content) == (200, WHOLE)
    fresh = {"range": "bytes=0-1", "if-range": whole.headers["etag"]}
    assert http.get(f"{finished}/content", headers=fresh).content == WHOLE[:2]
    head = http.head(f"{finished}/content")
    assert (head.content, head.headers["content-length"]) == (b"", str(size))
    assert told(http.get(f"{finished}/content?variant=thumbnail"))[:2] == (400, "unsupported")


def read_events(http, path, **headers):
    """Every event: id, kind, value."""
    lines = http.get(f"{path}/events", headers=headers)
    assert lines.headers["content-type"].startswith("text/event-stream")
    blocks = [dict(line.split(": ", 1) for line in block.split("\n")) for block in lines.text.split("\n\n") if block]
    return [(int(block["id"]), block["event"], json.loads(block["data"])) for block in blocks if "id" in block]


def test_events_tell_all_that_happens_and_go_on_where_a_reader_was_cut_off(http, hands):
    path, found = f"/v1/videos/{create(http)}", []
    reader = threading.Thread(target=lambda: found.extend(read_events(http, path)))
    reader.start()
    hands.claim()
    hands.progress("denoise", 1, 4)
    hands.commit(b"data")
    hands.finish()
    reader.join(20)
    kinds = ["status", "status", "progress", "committed", "status"]
    assert [(number, kind) for number, kind, _ in found] == list(enumerate(kinds, 1))
    assert [value["status"] for _, kind, value in found if kind == "status"] == ["queued", "in_progress", "completed"]
    assert (found[2][2]["stage"], found[2][2]["done"], found[2][2]["total"], found[3][2]["unit"]) == (
        "denoise",
        1,
        4,
        0,
    )
    assert read_events(http, path, **{"last-event-id": "3"}) == found[3:]
    assert http.get(f"{path}/events", headers={"last-event-id": "5"}).status_code == 204
    for wrong in ("6", "-1", "x", "٣"):
        assert told(http.get(f"{path}/events", params={"after": wrong}))[:2] == (400, "invalid_input")


def test_readers_of_events_are_counted_until_they_leave(http, monkeypatch):
    monkeypatch.setattr(videos, "MOST_FOLLOWING", 1)
    path = f"/v1/videos/{create(http)}/events"
    with http.stream("GET", path) as stream:
        lines = stream.iter_lines()  # held, as it hangs up when it is dropped
        assert next(lines) == "id: 1"
        answer = http.get(path)
        assert told(answer)[:2] == (503, "out_of_resources")
        assert answer.headers["retry-after"] == "1"
    status = 503
    while status == 503:  # until it is seen that the other has left; the test's own limit ends this
        with http.stream("GET", path) as stream:
            status = stream.status_code
    assert status == 200


def test_a_key_gives_the_same_video_however_often_it_is_sent(http):
    def create_with(prompt, key):
        return http.post("/v1/videos", json={"prompt": prompt}, headers={"idempotency-key": key})

    first = create_with("a disc", "k").json()["id"]
    assert create_with("a disc", "k").json()["id"] == first
    assert create_with("a disc", "other").json()["id"] != first
    answer = create_with("a star", "k")
    assert (told(answer)[:2], answer.headers["x-should-retry"]) == ((409, "conflict"), "false")
    assert http.delete(f"/v1/videos/{first}").json()["deleted"]
    assert create_with("a star", "k").status_code == 200
    assert told(create_with("a disc", "k" * 257))[0] == 400


WRONG = [
    ({"prompt": " "}, 400, "invalid_prompt", "empty"),
    ({}, 400, "invalid_input", "prompt"),
    ({"prompt": 3}, 400, "invalid_input", "prompt"),
    ({"prompt": "\ud800"}, 400, "invalid_input", ""),
    ({"prompt": "x", "model": "sora-2"}, 404, "unknown_model", "models here: fake"),
    ({"prompt": "x", "size": "12"}, 400, "invalid_size", "WIDTHxHEIGHT"),
    ({"prompt": "x", "size": "99999999999x5"}, 400, "invalid_input", "out of range"),
    ({"prompt": "x", "size": "97x64"}, 400, "invalid_size", "96x64"),
    ({"prompt": "x", "seconds": "soon"}, 400, "invalid_input", "seconds"),
    ({"prompt": "x", "seconds": 1e300}, 400, "invalid_size", "day"),
    ({"prompt": "x", "seconds": 1, "frames": 5}, 400, "invalid_input", "one of them"),
    ({"prompt": "x", "frames": 18}, 400, "invalid_size", "18 frames"),
    ({"prompt": "x", "seed": 2**64}, 400, "invalid_input", "seed"),
    ({"prompt": "x", "colour": "red"}, 400, "invalid_input", "colour"),
    ({"prompt": "x", "decoder": "fast"}, 400, "invalid_input", "full or preview"),
    ({"prompt": "x", "sparsity": "dense"}, 400, "invalid_input", "begins with a method"),
    ({"prompt": "x", "sparsity": 0.5}, 400, "invalid_input", "sparsity"),
    ({"prompt": "x", "priority": 101}, 400, "invalid_input", "priority"),
    ({"prompt": "x", "input_reference": "a picture"}, 400, "invalid_input", "image_url"),
    ({"prompt": "x", "input_reference": {"file_id": "f"}}, 400, "unsupported", "FIRST_FRAME"),
    ({"prompt": "x", "input_reference": {"image_url": "data:;base64,AA=="}}, 400, "unsupported", "FIRST_FRAME"),
    ([], 400, "invalid_input", "object"),
]


def field(name, data=b"x"):
    return b'--b\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name, data)


FORMS = [
    b"",
    b"--b\r\n\r\n--b--",
    b"--b\r\n" * 200,
    b"--b\r\ncontent-disposition: form-data\r\n\r\nx\r\n--b--\r\n",
    field(b"prompt"),
    field(b"prompt", b"\xff") + b"--b--",
    2 * field(b"prompt") + b"--b--",
    field(b"prompt") + field(b"input_reference[x]") + field(b"input_reference") + b"--b--",
]
"""None of them is one, or says something twice, or what is no text."""


def test_wrong_wishes_are_refused_precisely_and_leave_no_video(http):
    for wish, status, code, text in WRONG:
        answer = http.post("/v1/videos", content=json.dumps(wish))
        assert (*told(answer)[:2], text in told(answer)[2]) == (status, code, True), (wish, told(answer))
        assert answer.headers["x-should-retry"] == "false"
    for body in (b"", b"{", b"[" * 100_000, b"\xff", b"--b\r\n"):
        assert told(http.post("/v1/videos", content=body))[:2] == (400, "invalid_input")
    for body in FORMS:
        assert told(http.post("/v1/videos", content=body, headers=BOUNDARY))[:2] == (400, "invalid_input"), body
    assert told(http.post("/v1/videos", content=b"x", headers={"content-type": "multipart/form-data"}))[0] == 400
    empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert http.get("/v1/videos").json() == empty


def test_files_in_forms_keep_every_byte():
    data = bytes(range(256)) + b"\r\n--c\r\n\r\n--\r\n"
    body = b'--b\r\nContent-Disposition: form-data; name="p"; filename="a b"\r\nX: y\r\n\r\n' + data + b"\r\n--b--\r\n"
    (part,) = bodies.read_form(BOUNDARY["content-type"], body)
    assert (part.name, part.data, part.is_file) == ("p", data, True)


def test_paths_and_pages_that_are_none_are_refused(http):
    for path, status in (("/", 404), ("/v1/videos/a:b", 404), ("/v1/videos/..%2f..%2fetc", 404), ("/docs", 404)):
        assert told(http.get(path))[0] == status
    assert told(http.put("/v1/videos"))[:2] == (405, "method_not_allowed")
    for query in ("limit=0", "limit=101", "limit=x", "order=up", "colour=red", "limit=%d9%a3"):
        assert told(http.get(f"/v1/videos?{query}"))[0] == 400
    assert told(http.get("/v1/videos?after=nobody"))[0] == 404


def test_pages_in_a_browser_cannot_send_its_reader_here(served, http):
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}, {"host": "[x"}, {"origin": "null"}):
        answer = http.post("/v1/videos", json={"prompt": "x"}, headers=headers)
        assert told(answer)[:2] == (403, "forbidden")
    port = served.server.port
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", "[::1]"):
        assert http.get("/v1/videos", headers={"host": host, "origin": f"http://{host}"}).json()["data"] == []


def test_metrics_count_requests_and_renders_and_name_no_tenant(shelf, hands):
    token = {"authorization": "Bearer a-token-of-ann-here"}
    with serve_http(shelf, callers=Callers({"a-token-of-ann-here": "ann"})) as served:
        assert httpx2.get(f"{served.url}/metrics").status_code == 401
        assert httpx2.get(f"{served.url}/healthz").json() == {"status": "ok"}
        with httpx2.Client(base_url=served.url, headers=token) as http:
            ids = [create(http) for _ in range(3)]
            hands.claim()
            for video_id in ids:
                http.get(f"/v1/videos/{video_id}")
            http.get("/somewhere")
            lines = http.get("/metrics").text.splitlines()
    assert 'reelray_http_requests_total{method="POST",route="/v1/videos",status="200"} 3.0' in lines
    assert 'reelray_http_requests_total{method="GET",route="/v1/videos/{id}",status="200"} 3.0' in lines
    assert 'reelray_http_requests_total{method="GET",route="none",status="404"} 1.0' in lines
    assert 'reelray_http_request_seconds_count{route="/v1/videos"} 3.0' in lines
    assert {'reelray_renders{state="queued"} 2.0', 'reelray_renders{state="running"} 1.0'} <= set(lines)
    assert {'reelray_renders_waiting{model="fake"} 2.0', 'reelray_model_ready{model="fake"} 1.0'} <= set(lines)
    assert not any("ann" in line or video_id in line for line in lines for video_id in ids if "HELP" not in line)


def test_without_its_store_it_says_when_to_come_back_and_nothing_else(http, served, monkeypatch):
    async def away(*_args):
        raise ConnectionError("redis://secret@inside:1 is away")

    async def lost(*_args):
        raise StoreError("redis://secret@inside:1 does not answer")

    jobs = served.server._house.archive.store.jobs
    monkeypatch.setattr(type(jobs), "get", lost)
    answer = http.get("/v1/videos/x")
    assert told(answer) == (503, "store_lost", "the store of renders does not answer; try again soon")
    assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("1", "true")
    monkeypatch.setattr(type(jobs), "get", away)
    answer = http.get("/v1/videos/x")
    assert told(answer)[:2] == (500, "internal")
    assert "secret" not in answer.text


def test_bodies_have_a_largest_size_and_a_longest_time(http, served, monkeypatch):
    with socket.create_connection(("127.0.0.1", served.server.port), 10) as line:
        line.sendall(b"POST /v1/videos HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000000\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 413")
    pieces = (b"x" * 100_000 for _ in range(40))
    assert told(http.post("/v1/videos", content=pieces))[0] == 413  # of no announced length
    monkeypatch.setattr(bodies, "SLOWEST_BODY_S", 0.1)
    with socket.create_connection(("127.0.0.1", served.server.port), 10) as line:
        line.sendall(b"POST /v1/videos HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nab")
        assert line.recv(100).startswith(b"HTTP/1.1 408")


def test_who_says_nothing_or_says_it_slowly_is_left(served, monkeypatch):
    monkeypatch.setattr(connections, "HEADS_S", 0.2)
    for begun in (b"", b"GET /healthz HTTP/1.1\r\nhost:", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\nGET /"):
        with socket.create_connection(("127.0.0.1", served.server.port), 20) as line:
            line.sendall(begun)
            said = b""
            while piece := line.recv(1000):  # until it is closed at the other end
                said += piece
            assert said.startswith(b"HTTP/1.1 200") == begun.endswith(b"GET /")


def test_heads_have_a_largest_size(served):
    with socket.create_connection(("127.0.0.1", served.server.port), 20) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 200_000)
        assert line.recv(100).startswith(b"HTTP/1.1 400")


def test_an_ending_server_ends_streams_of_events_first(http, served):
    path, ended = f"/v1/videos/{create(http)}", []
    with http.stream("GET", f"{path}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "id: 1"
        ending = threading.Thread(target=lambda: ended.append(served.run(served.server.stop(1000))))
        ending.start()
        list(lines)
    ending.join(20)
    assert ended == [None]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{served.url}/healthz")
