"""The official client of OpenAI, as it comes, against this server."""

import openai
import pytest

# The client calls its own methods deprecated, as OpenAI's own service is about to end.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


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
