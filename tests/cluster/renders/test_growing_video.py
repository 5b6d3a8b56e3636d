"""The bytes of a video that is interrupted are those of one that is not, and they are a video."""

import io
import random
from dataclasses import replace

import av
import numpy as np
import pytest

from reelray.cluster.render import RenderOptions, plan_job
from reelray.cluster.renders import groups
from reelray.cluster.renders.groups import chunk_ends, cut_groups
from reelray.cluster.renders.growing_video import GrowingVideo
from reelray.proto.chunking import Chunking
from reelray.proto.errors import OutputError
from tests.support.fake_engine import DIGEST, RECIPE, draw_frames, fake_entry


def plan(*, frames=61, chunk=None, first=None, size="64x48"):
    recipe = replace(RECIPE, chunking=Chunking(latent_frames=chunk, first_latent_frames=first))
    return plan_job(
        RenderOptions(prompt="a disc", frames=frames, size=size, seed=5, fps=23.976), fake_entry(recipe=recipe)
    )


def decode(data):
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(video=0))
        rate = container.streams.video[0].average_rate
    assert [frame.time * rate for frame in frames] == pytest.approx(range(len(frames)))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def undisturbed(job):
    video = GrowingVideo(job, DIGEST)
    video.write(draw_frames(job.request))
    return video.take()


def test_groups_end_with_chunks_and_stay_small():
    for job in (
        plan(),
        plan(chunk=3),
        plan(chunk=3, first=1),
        plan(chunk=1),
        plan(frames=1),
        plan(frames=241, chunk=20),
    ):
        ends, chunks = cut_groups(job.request, job.model.facts), chunk_ends(job.request, job.model.facts)
        assert ends[-1] == chunks[-1] == job.request.frames
        lengths = np.diff([0, *ends])
        assert lengths.max() <= groups.MOST_FRAMES
        assert all(length >= 12 for length in lengths[:-1])
        assert all(
            end in chunks or end - begin == groups.MOST_FRAMES for begin, end in zip([0, *ends], ends, strict=False)
        )
    assert chunk_ends(plan(chunk=3).request, plan().model.facts) == (9, 21, 33, 45, 57, 61)
    assert cut_groups(plan(chunk=3).request, plan().model.facts) == (21, 33, 45, 57, 61)


def test_a_group_of_large_pictures_is_short(monkeypatch):
    monkeypatch.setattr(groups, "MOST_BYTES", 10 * 64 * 48 * 3)
    assert cut_groups(plan(frames=25).request, plan().model.facts) == (10, 20, 25)
    monkeypatch.setattr(groups, "MOST_BYTES", 1)
    assert cut_groups(plan(frames=5).request, plan().model.facts) == (1, 2, 3, 4, 5)


def test_the_video_holds_the_frames_in_their_order_and_time():
    job = plan(chunk=3, size="160x48")
    seen = decode(undisturbed(job)).astype(int)
    drawn = draw_frames(job.request).astype(int)
    assert seen.shape == drawn.shape
    distance = [[np.abs(a - b).mean() for b in drawn] for a in seen]
    assert (np.argmin(distance, axis=1) == range(61)).all()
    assert np.diag(distance).max() < 4


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_it_can_be_put_down_after_any_frame(chunk):
    job, rng = plan(chunk=chunk), random.Random(3)
    frames, expected = draw_frames(job.request), undisturbed(job)
    for _ in range(6):
        video, data, at = GrowingVideo(job, DIGEST), b"", 0
        while at < len(frames):
            step = rng.randint(1, 20)
            video.write(frames[at : at + step])
            at += step
            data += video.take()
            assert expected.startswith(data)
            assert video.place.size_bytes == len(data)
            if rng.random() < 0.5:
                video = GrowingVideo(job, DIGEST, video.place, video.tail)
        assert data == expected


def test_what_is_there_of_it_can_be_watched():
    job, data = plan(chunk=3), b""
    video = GrowingVideo(job, DIGEST)
    whole = decode(undisturbed(job))
    for begin in range(0, 61, 4):
        video.write(draw_frames(job.request)[begin : begin + 4])
        data += video.take()
        if data:
            seen = decode(data)
            assert len(seen) in cut_groups(job.request, job.model.facts)
            assert (seen == whole[: len(seen)]).all()


def test_parts_that_do_not_fit_together_are_refused():
    job = plan()
    video = GrowingVideo(job, DIGEST)
    video.write(draw_frames(job.request)[:50])
    place, tail = video.place, video.tail
    for wrong in (b"", b"x" * 100, tail[:-9]):
        with pytest.raises(OutputError):
            GrowingVideo(job, DIGEST, place, wrong)
    other = GrowingVideo(job, DIGEST, replace(place, codec="0" * 64), tail)
    with pytest.raises(OutputError, match="another version of the encoder"):
        other.write(draw_frames(job.request)[50:])
