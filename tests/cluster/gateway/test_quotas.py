"""Quotas of tenants: over gRPC and HTTP alike, charged once whatever is repeated, and of nobody else."""

import json
import urllib.error
import urllib.request

import grpc
import pytest

from reelray.cluster.gateway.callers import Callers
from reelray.cluster.gateway.server import Guard
from reelray.cluster.gateway.tenant_quotas import TenantQuota, TenantQuotas
from reelray.proto.v1 import renders_pb2
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import connect, serve
from tests.support.http_gateway import serve_http
from tests.support.render_calls import Caller, refusal, video

ANN, BOB = "a-token-of-ann-here", "a-token-of-bob-here"
CALLERS = Callers({ANN: "ann", BOB: "bob"})
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def served(shelf):
    """Callers `ann`, who has quotas, and `bob`, who has those of everybody."""

    def serve_with(ann, everybody=TenantQuota()):  # noqa: B008  frozen
        quotas = TenantQuotas(everybody=everybody, tenants={"ann": ann})
        opened.append(serve(FakeEngine(), shelf=shelf, guard=Guard(callers=CALLERS, quotas=quotas)))
        channel = connect(opened[0].__enter__())
        opened.append(channel)
        line = channel.__enter__()
        return Caller(line, ANN), Caller(line, BOB)

    opened = []
    yield serve_with
    for one in reversed(opened):
        one.__exit__(None, None, None)


def used(hands, tenant, quota):
    return hands.do(hands.store.quotas.used(tenant, quota.frames))


def submit(caller, frames=17, **options):
    return caller.submit(video_spec=video(frames=frames), **options)


def test_frames_are_charged_once_and_to_their_tenant(served, hands):
    quota = TenantQuota(frames_per_day=40)
    ann, bob = served(quota)
    first = submit(ann, idempotency_key="k")
    assert submit(ann, idempotency_key="k").id == first.id
    assert used(hands, "ann", quota) == 17
    submit(ann)
    code, _, reason, ids, retries = refusal(lambda: submit(ann))
    assert (code, reason, ids["quota"], retries) == (FULL, "quota_exceeded", "frames", True)
    assert submit(ann, idempotency_key="k").id == first.id  # of what was taken on nothing is asked again
    assert used(hands, "ann", quota) == 34
    ann.Cancel(renders_pb2.CancelRenderRequest(id=first.id))
    assert used(hands, "ann", quota) == 34
    for _ in range(4):
        submit(bob)


def test_what_is_more_than_the_whole_quota_is_no_matter_of_time(served):
    ann, _ = served(TenantQuota(frames_per_day=16))
    code, text, *_ = refusal(lambda: submit(ann, frames=17))
    assert (code, "the quota is 16" in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_so_many_may_be_open_and_so_many_come_in_a_minute(served):
    ann, bob = served(TenantQuota(open_renders=2), TenantQuota(renders_per_minute=3))
    first, _ = submit(ann), submit(ann)
    code, _, _, ids, retries = refusal(lambda: submit(ann))
    assert (code, ids["quota"], retries) == (FULL, "open jobs", True)
    ann.Cancel(renders_pb2.CancelRenderRequest(id=first.id))
    submit(ann)
    for _ in range(3):
        submit(bob)
    code, _, _, ids, retries = refusal(lambda: submit(bob))
    assert (code, ids["quota"], retries) == (FULL, "renders", True)
    assert 1000 < int(ids["retry_after_ms"]) <= 20_000


def test_over_http_they_are_the_same(shelf, hands):
    quota = TenantQuota(frames_per_day=20)
    with serve_http(shelf, callers=CALLERS, quotas=TenantQuotas(tenants={"ann": quota})) as http:

        def create(token):
            asked = urllib.request.Request(
                f"{http.url}/v1/videos",
                json.dumps({"prompt": "a disc", "model": "fake"}).encode(),
                {"authorization": f"Bearer {token}", "content-type": "application/json"},
            )
            with urllib.request.urlopen(asked, timeout=20) as answer:
                return json.load(answer)["id"]

        create(ANN)
        charged = used(hands, "ann", quota)
        assert 10 < charged <= 20
        with pytest.raises(urllib.error.HTTPError) as raised:
            create(ANN)
        assert raised.value.code == 429
        raised.value.close()
        assert used(hands, "ann", quota) == charged
        create(BOB)
        create(BOB)
