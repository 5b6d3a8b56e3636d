"""Where webhooks are asked for and seen: `reelray submit`, `reelray jobs` and HTTP."""

import json
from dataclasses import replace

import httpx2

from reelray.cluster.outbound.allow_list import AllowList, Reach
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import serve
from tests.support.http_gateway import serve_http


def test_webhooks_over_http_and_for_people(cli, shelf):
    reach = Reach(webhooks=AllowList.of(["https://shop.example/hooks"], "--allow-webhook"), webhook_secret=b"k" * 32)
    shelf, url = replace(shelf, reach=reach), "https://shop.example/hooks/end"
    with serve_http(shelf) as served, httpx2.Client(base_url=served.url) as http:
        made = http.post("/v1/videos", json={"prompt": "a disc", "webhook": url}).json()
        told = {"url": url, "state": "waiting", "tries": 0, "error": None}
        assert http.get(f"/v1/videos/{made['id']}").json()["webhook"] == made["webhook"] == told
        refused = http.post("/v1/videos", json={"prompt": "a disc", "webhook": "http://10.0.0.1/"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "url_not_allowed")
    with serve(FakeEngine(), shelf=shelf) as address:
        cli.run("submit", "a star", "--webhook", url, "--server", address)
        cli.run("submit", "nobody", "--server", address)
        listed = json.loads(cli.run("jobs", "--json", "--server", address).out)
        waiting = {"url": url, "state": "waiting", "tries": 0, "next": None, "error": None}
        assert [job.get("webhook") for job in listed] == [None, waiting, waiting]
        assert listed[-1]["id"] == made["id"]
        refused = cli.run("submit", "a star", "--webhook", "https://elsewhere.example/", "--server", address)
        assert (refused.code, "--allow-webhook" in refused.err) == (2, True)
