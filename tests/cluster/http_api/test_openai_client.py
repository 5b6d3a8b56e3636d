"""The official client of OpenAI, as it comes, against this server."""

import base64
import io

import openai
import pytest
from PIL import Image

from reelray.cluster.gateway.callers import Callers
from reelray.cluster.renders.artifacts import Artifacts
from reelray.cluster.renders.spec import RenderSpec
from reelray.cluster.store.names import JobRef
from tests.support.http_gateway import picture_entry, serve_http

# The client calls its own methods deprecated, as OpenAI's own service is about to end.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
GREEN = (9, 200, 30)


def connect(served, token="none"):
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=token, max_retries=0)


@pytest.fixture
def client(served):
    with connect(served) as client:
        yield client


def spec_of(hands, video_id):
    return RenderSpec.from_json(hands.do(hands.store.jobs.get(JobRef(tenant="default", id=video_id))).spec)


def png():
    file = io.BytesIO()
    Image.new("RGB", (96, 64), GREEN).save(file, "PNG")
    return file.getvalue()


def test_a_video_from_create_to_its_file(client, hands):
    video = client.videos.create(prompt="a disc", model="fake", size="96x64", seconds="2")
    assert (video.object, video.status, video.progress, video.error) == ("video", "queued", 0, None)
    assert (video.prompt, video.model, video.size, video.seconds) == ("a disc", "fake", "96x64", "2.0625")
    assert video.created_at > 1.7e9
    assert client.videos.retrieve(video.id) == video
    assert hands.claim().ref.id == video.id
    hands.progress("denoise", 2, 4)
    running = client.videos.retrieve(video.id)
    assert (running.status, running.progress, running.completed_at) == ("in_progress", 45, None)
    with pytest.raises(openai.ConflictError, match="not finished"):
        client.videos.download_content(video.id)
    hands.commit(b"one ")
    hands.commit(b"two")
    hands.finish()
    done = client.videos.poll(video.id)
    assert (done.status, done.progress, done.error) == ("completed", 100, None)
    assert done.completed_at >= done.created_at
    assert done.expires_at == done.completed_at + 7 * 86_400
    assert client.videos.download_content(video.id).read() == b"one two"


def test_our_own_options_travel_beside_its_fields(client, hands):
    said = {"frames": 9, "seed": 7, "steps": 2, "guidance": 1.5, "fps": 12.5, "negative_prompt": "fog"}
    video = client.videos.create(prompt="a disc", extra_body={**said, "priority": 3})
    request = spec_of(hands, video.id).request
    assert (request.frames, request.seed, request.recipe.schedule.length) == (9, 7, 2)
    assert (request.recipe.guidance.scale, request.negative_prompt) == (1.5, "fog")
    assert spec_of(hands, video.id).fps == 12.5
    assert hands.do(hands.store.jobs.get(JobRef(tenant="default", id=video.id))).priority == 3


def test_lists_hold_every_video_once_also_while_they_are_deleted(client):
    made = [client.videos.create(prompt=f"number {n}").id for n in range(7)]
    assert [video.id for video in client.videos.list(limit=3)] == made[::-1]
    assert [video.id for video in client.videos.list(limit=3, order="asc")] == made
    assert [video.id for video in client.videos.list(after=made[2], order="desc")] == made[1::-1]
    assert [video.id for video in client.videos.list(after=made[4], order="asc")] == made[5:]
    gone = []
    for video in client.videos.list(limit=2):
        said = client.videos.delete(video.id)
        gone.append((said.id, said.deleted, said.object))
    assert gone == [(video_id, True, "video.deleted") for video_id in made[::-1]]
    assert not list(client.videos.list())


def test_a_deleted_video_is_gone_for_everybody_and_so_are_its_files(client, hands, shelf):
    kept, gone = (client.videos.create(prompt=text).id for text in ("one", "two"))
    for _ in range(2):
        hands.claim()
        hands.commit(b"data")
        hands.finish()
    files = Artifacts(shelf.files)
    assert files.used_bytes("default", gone) == 4
    client.videos.delete(gone)
    for call in (client.videos.retrieve, client.videos.download_content, client.videos.delete):
        with pytest.raises(openai.NotFoundError):
            call(gone)
    assert (files.used_bytes("default", gone), files.used_bytes("default", kept)) == (0, 4)
    waiting = client.videos.create(prompt="three").id
    client.videos.delete(waiting)
    assert hands.do(hands.store.leases.claim("a test", lease_s=5, queues=["fake"])) is None
    assert [video.id for video in client.videos.list()] == [kept]


def test_a_remix_is_the_same_wish_with_another_prompt(client, hands):
    first = client.videos.create(prompt="a disc", extra_body={"frames": 9, "seed": 7})
    second = client.videos.remix(first.id, prompt="a star")
    assert (second.prompt, second.status) == ("a star", "queued")
    assert second.id != first.id
    assert (first.remixed_from_video_id, second.remixed_from_video_id) == (None, first.id)
    assert client.videos.retrieve(second.id) == second
    assert [video.remixed_from_video_id for video in client.videos.list()] == [first.id, None]
    one, two = (spec_of(hands, video.id).to_json() for video in (first, second))
    assert one["request"].pop("prompt") == "a disc"
    assert two["request"].pop("prompt") == "a star"
    assert one == two
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.videos.remix(first.id, prompt=" ")


def test_a_picture_comes_as_a_file_or_as_a_data_url(shelf, hands):
    url = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    with serve_http(shelf, entry=picture_entry()) as served, connect(served) as client:
        ways = (
            {"input_reference": ("1.png", png(), "image/png")},
            {"extra_body": {"input_reference": {"image_url": url}}},
        )
        for way in ways:
            video = client.videos.create(prompt="a disc", size="96x64", **way)
            assert Artifacts(shelf.files).read(spec_of(hands, video.id).picture) == bytes(GREEN) * (96 * 64)
        remix = client.videos.remix(video.id, prompt="a star")
        assert spec_of(hands, remix.id).picture == spec_of(hands, video.id).picture
        with pytest.raises(openai.BadRequestError, match="no picture"):
            client.videos.create(prompt="a disc", input_reference=b"GIF89a")
        elsewhere = {"input_reference": {"image_url": "http://10.0.0.1/x.png"}}
        with pytest.raises(openai.PermissionDeniedError, match="not told to trust"):
            client.videos.create(prompt="a disc", extra_body=elsewhere)


def test_what_failed_or_was_cancelled_says_why(client, hands):
    failed, cancelled = (client.videos.create(prompt=text).id for text in ("one", "two"))
    hands.claim()
    hands.fail("the model was hit by lightning")
    hands.do(hands.store.jobs.cancel(JobRef(tenant="default", id=cancelled), "cancelled by its owner"))
    for video_id, code, text in ((failed, "render_failed", "lightning"), (cancelled, "cancelled", "by its owner")):
        video = client.videos.poll(video_id)
        assert (video.status, video.error.code, text in video.error.message) == ("failed", code, True)
        with pytest.raises(openai.APIStatusError, match=text) as raised:
            client.videos.download_content(video_id)
        assert raised.value.status_code == 410


def test_tenants_see_their_own_videos_only(shelf):
    keys = {"a-token-of-ann-here": "ann", "a-token-of-bob-here": "bob"}
    with serve_http(shelf, callers=Callers(keys)) as served:
        ann, bob, nobody = (connect(served, token) for token in (*keys, "a-token-of-nobody-here"))
        video = ann.videos.create(prompt="a disc")
        for call in (bob.videos.retrieve, bob.videos.delete, bob.videos.download_content):
            theirs, nones = (_message(lambda i=i, call=call: call(i)) for i in (video.id, "f" * 32))
            assert theirs.replace(video.id, "") == nones.replace("f" * 32, "")
        with pytest.raises(openai.NotFoundError):
            bob.videos.remix(video.id, prompt="x")
        assert not list(bob.videos.list())
        with pytest.raises(openai.NotFoundError):
            bob.videos.list(after=video.id)
        with pytest.raises(openai.AuthenticationError, match="wants a token"):
            nobody.videos.retrieve(video.id)
        assert ann.videos.retrieve(video.id).id == video.id
        for client in (ann, bob, nobody):
            client.close()


def _message(call):
    with pytest.raises(openai.NotFoundError) as raised:
        call()
    return str(raised.value)


def test_any_server_answers_for_any_video(shelf, hands):
    with serve_http(shelf) as one, serve_http(shelf) as other, connect(one) as here, connect(other) as there:
        video = here.videos.create(prompt="a disc")
        assert there.videos.retrieve(video.id) == video
        hands.claim()
        hands.commit(b"data")
        hands.finish()
        assert there.videos.download_content(video.id).read() == b"data"
        there.videos.delete(video.id)
        with pytest.raises(openai.NotFoundError):
            here.videos.retrieve(video.id)
