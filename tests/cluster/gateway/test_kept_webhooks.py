"""Webhooks of `reelray serve` as a process: refused, told, and told by the next one where it is killed in between."""

import base64
import json
import os
import signal

import grpc
import openai
import pytest

from tests.cluster.gateway.test_kept_renders import SERVE
from tests.support.commands import start_process, wait_for_address
from tests.support.gateway import connect
from tests.support.render_calls import Caller, refusal, submission, video
from tests.support.waiting import wait_until
from tests.support.web import start_web

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
WITH_HOOKS = (
    """
import os
os.environ["REELRAY_WEBHOOK_SECRET"] = os.environ.get("SECRET_OF_TEST", "")
from reelray.cluster.renders import webhooks
first = webhooks.WebhookTeller
def hasty(connection, reach):
    return first(connection, reach, webhooks.WebhookHabits(look_s=0.05, first_pause_s=0.3, longest_pause_s=0.3))
webhooks.WebhookTeller = hasty
"""
    + SERVE
)


@pytest.fixture
def web():
    with start_web() as web:
        yield web


def test_ends_are_told_also_by_the_server_after_one_that_was_killed(tmp_path, web, monkeypatch):
    monkeypatch.setenv("SECRET_OF_TEST", SECRET)
    told, works = [], []

    def take(handler):
        told.append((dict(handler.headers), handler.rfile.read(int(handler.headers["content-length"]))))
        handler.send_response(200 if works else 503)
        handler.end_headers()

    web.pages["/hooks/end"] = take
    left = tmp_path / "data" / "renders" / "default" / "assets" / "a-of-a-crash.asset"
    left.parent.mkdir(parents=True)
    left.touch()
    os.utime(left, (1, 1))
    options = ("0", "--allow-webhook", f"{web.url}/hooks/")
    with start_process(WITH_HOOKS, tmp_path, *options) as process, connect(wait_for_address(process)) as channel:
        caller = Caller(channel)
        request = submission(video_spec=video(frames=5))
        request.webhook = f"{web.url}/other"
        code, _, reason, *_ = refusal(lambda: caller.Submit(request))
        assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "url_not_allowed")
        request.webhook = f"{web.url}/hooks/end"
        render = caller.Submit(request).render
        assert (render.webhook.url, render.webhook.State.Name(render.webhook.state)) == (request.webhook, "WAITING")
        wait_until(lambda: len(told) >= 2)
        said = caller.get(render.id).webhook
        assert (said.State.Name(said.state), said.tries >= 2, "503" in said.error) == ("SENDING", True, True)
        wait_until(lambda: not left.exists())  # what no upload has is taken away
        process.send_signal(signal.SIGKILL)
    works.append(True)
    with start_process(WITH_HOOKS, tmp_path, *options) as process, connect(wait_for_address(process)) as channel:
        caller = Caller(channel)
        wait_until(lambda: caller.get(render.id).webhook.state == caller.get(render.id).webhook.DELIVERED)
    assert len({headers["webhook-id"] for headers, _ in told}) == 1
    assert len({body for _, body in told}) == 1
    headers, body = told[-1]
    openai.OpenAI(api_key="none", webhook_secret=SECRET).webhooks.verify_signature(body.decode(), headers)
    event = json.loads(body)
    assert (event["type"], event["data"]["id"]) == ("video.completed", render.id)
    assert event["data"]["bytes"] > 0


def test_a_server_that_could_not_sign_does_not_start(tmp_path, monkeypatch):
    for secret, text in (("", "REELRAY_WEBHOOK_SECRET, such as"), ("hunter2", "REELRAY_WEBHOOK_SECRET must be whsec_")):
        monkeypatch.setenv("SECRET_OF_TEST", secret)
        with start_process(WITH_HOOKS, tmp_path, "0", "--allow-webhook", "https://x.example/") as process:
            out, err = process.communicate(timeout=20)
        assert (out.split()[0], text in err, "hunter2" in err) == ("2", True, False)
