"""Callers that leave in the middle, or stay and read nothing: nothing is held for them, and nobody is alarmed."""

import logging
import socket
import time

import httpx2
import pytest

from reelray.cluster.http_api import connections
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.retention import RetentionRule
from reelray.proto.errors import ArtifactError
from tests.support.http_gateway import serve_http


def create(http):
    return http.post("/v1/videos", json={"prompt": "a disc"}).json()["id"]


def finish(http, hands, data=b"data"):
    video_id = create(http)
    hands.claim()
    hands.commit(data)
    hands.finish()
    return video_id


def settle(is_so):
    """Wait until something is so; the test's own limit ends this."""
    while not is_so():
        time.sleep(0.01)


def test_who_reads_nothing_is_cut_off_and_nothing_is_kept_for_it(served, http, hands, monkeypatch, caplog):
    monkeypatch.setattr(connections, "UNREAD_S", 0.2)
    video_id = finish(http, hands, bytes(30_000_000))
    held = served.server._server.server_state.connections
    http.close()
    settle(lambda: not held)
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", served.server.port))
        line.sendall(b"GET /v1/videos/%s/content HTTP/1.1\r\nhost: localhost\r\n\r\n" % video_id.encode())
        settle(lambda: held)
        settle(lambda: not held)
        assert not served.server._server.server_state.tasks
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_who_reads_slowly_gets_all_of_it(http, hands, monkeypatch):
    monkeypatch.setattr(connections, "UNREAD_S", 5.0)
    data = bytes(range(256)) * 20_000
    video_id = finish(http, hands, data)
    with http.stream("GET", f"/v1/videos/{video_id}/content") as answer:
        read = bytearray()
        for piece in answer.iter_bytes(500_000):
            read += piece
            time.sleep(0.02)
    assert read == data


def test_a_body_that_ends_in_the_middle_alarms_nobody(served, http, caplog):
    with socket.create_connection(("127.0.0.1", served.server.port), 10) as line:
        line.sendall(b"POST /v1/videos HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{")
    told = 'reelray_http_requests_total{method="POST",route="/v1/videos",status="400"} 1.0'
    settle(lambda: told in http.get("/metrics").text)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_asking_for_the_heads_of_events_follows_nothing(http):
    path = f"/v1/videos/{create(http)}/events"
    for _ in range(2):  # on the same connection, which is free again at once
        answer = http.head(path)
        assert (answer.status_code, answer.headers["content-type"][:17]) == (200, "text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"


def test_a_file_that_was_cut_short_ends_its_answer(http, hands, shelf):
    data = bytes(3_000_000)
    video_id = finish(http, hands, data)
    (file,) = (shelf.files / "default" / video_id).glob("*.mp4")
    file.write_bytes(data[:1_500_000])
    with pytest.raises(httpx2.RemoteProtocolError):
        http.get(f"/v1/videos/{video_id}/content")
    answer = http.get(f"/v1/videos/{video_id}/content", headers={"range": "bytes=2000000-"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "artifact_failed")


def test_a_video_is_deleted_also_where_its_files_cannot_be_reached_now(http, hands, monkeypatch):
    def fail(*_args):
        raise ArtifactError("the disk is away")

    video_id = finish(http, hands)
    monkeypatch.setattr(Artifacts, "delete_folder", fail)
    assert http.delete(f"/v1/videos/{video_id}").json()["deleted"]
    assert http.get(f"/v1/videos/{video_id}").status_code == 404


def test_videos_expire_when_this_server_takes_them_away(shelf, hands):
    rule = RetentionRule.of(days=2, gigabytes=None)
    with serve_http(shelf, rule=rule) as served, httpx2.Client(base_url=served.url) as http:
        told = http.get(f"/v1/videos/{finish(http, hands)}").json()
    assert told["expires_at"] - told["completed_at"] == 2 * 86_400
