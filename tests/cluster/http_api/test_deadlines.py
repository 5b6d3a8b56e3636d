"""A deadline over HTTP: kept and said, refused at once with the predicted time, or one clear word about no time."""

import time
from datetime import UTC, datetime

import httpx2
import openai
import pytest

from reelray.cluster.coordinator.desk import Desk
from tests.support import http_gateway
from tests.support.http_gateway import serve_http

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
DUE = 4_102_444_800


def create(http, deadline, **said):
    return http.post("/v1/videos", json={"prompt": "a disc", "deadline": deadline, **said})


def told(response):
    error = response.json()["error"]
    return response.status_code, error["code"], error["message"]


@pytest.mark.parametrize(
    ("said", "seconds"), [(DUE, DUE), (DUE + 0.5, DUE + 0.5), (str(DUE), DUE), ("2100-01-01T02:00:00+02:00", DUE)]
)
def test_it_is_kept_and_said_in_seconds(http, said, seconds):
    made = create(http, said)
    assert made.status_code == 200
    assert made.json()["deadline"] == seconds
    assert http.get(f"/v1/videos/{made.json()['id']}").json()["deadline"] == seconds
    assert "deadline" not in http.post("/v1/videos", json={"prompt": "a disc"}).json()


def test_a_form_says_it_and_so_does_the_official_client(http, served):
    made = http.post("/v1/videos", files={"prompt": (None, "a disc"), "deadline": (None, "2100-01-01T00:00:00Z")})
    assert made.json()["deadline"] == DUE
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        video = client.videos.create(prompt="a disc", model="fake", extra_body={"deadline": DUE})
        assert video.model_extra["deadline"] == DUE
        with pytest.raises(openai.RateLimitError, match="the deadline cannot be kept; it would be done in about"):
            client.videos.create(prompt="a disc", model="fake", extra_body={"deadline": int(time.time()) - 60})


def test_one_that_cannot_be_kept_is_refused_with_the_predicted_time_and_leaves_no_video(http):
    late = datetime.fromtimestamp(time.time() - 5, UTC).isoformat()
    status, code, text = told(create(http, late))
    assert (status, code) == (429, "deadline_unreachable")
    assert "it would be done in about" in text
    assert http.get("/v1/videos").json()["data"] == []


def test_a_known_key_is_not_asked_again(http):
    key = {"idempotency-key": "k"}
    soon = time.time() + 1.0
    body = {"prompt": "a disc", "deadline": soon}
    first = http.post("/v1/videos", json=body, headers=key)
    time.sleep(max(0.0, soon - time.time()))  # it could not be kept any more
    again = http.post("/v1/videos", json=body, headers=key)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert told(http.post("/v1/videos", json={**body, "deadline": DUE}, headers=key))[:2] == (409, "conflict")


@pytest.mark.parametrize(
    "wrong",
    ["soon", "", "2100-01-01", "2100-01-01T00:00:00", "1e3", -1, 1e300, "9" * 400, True, [1], {"seconds": 1}],
)
def test_what_is_no_time_is_one_clear_word(http, wrong):
    status, code, text = told(create(http, wrong))
    assert (status, code) == (400, "invalid_input")
    assert text.startswith("deadline is ")
    assert "seconds since 1970, or a time with its zone" in text


def test_not_a_number_is_none_either(http):
    answer = http.post("/v1/videos", content=b'{"prompt": "a disc", "deadline": NaN}')
    assert told(answer)[0] == 400
    assert told(answer)[2].startswith("deadline is 'nan'")


def test_where_nobody_decides_no_deadline_is_promised(shelf, monkeypatch):
    monkeypatch.setattr(http_gateway, "coordinate_alone", lambda models: Desk("h", models, patience_s=0.1))
    with serve_http(shelf) as alone, httpx2.Client(base_url=alone.url) as http:
        refused = create(http, DUE)
        assert told(refused)[:2] == (503, "coordinator_lost")
        assert refused.headers["x-should-retry"] == "true"
        assert create(http, None).status_code == 200
