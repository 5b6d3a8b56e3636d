"""Windows of clips, as a stream would remember them."""

import pytest
import torch

from examples.train_sprites import window_pool
from examples.train_sprites.motion import place_sprites
from examples.train_sprites.scenes import sample_scenes
from examples.train_sprites.tokenizer import build_tokenizer, list_words
from examples.train_sprites.window_pool import (
    CHUNK_FRAMES,
    CLIP_CHUNKS,
    WINDOW_CHUNKS,
    WindowPool,
    first_frame,
    interleave,
    move_to_meet,
)


class CountingVae:
    """Latents that tell clip and latent frame: the first pixel of the clip, and the frame's number."""

    latents_mean = torch.zeros(16)
    clips = 0

    def encode_whole(self, video):
        batch, frames = len(video), (video.shape[2] - 1) // 4 + 1
        latents = torch.zeros(batch, 16, frames, 16, 24)
        latents[:, 0] = (self.clips + torch.arange(batch))[:, None, None, None].float()
        latents[:, 1] = torch.arange(frames)[None, :, None, None].float()
        self.clips += batch
        return latents, latents

    def normalise(self, latents):
        return latents


@pytest.fixture(scope="module", autouse=True)
def _quick_pixels():
    """Nothing here looks at pixels, and drawing them takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            window_pool, "draw_batch", lambda scenes, frames, **_: torch.empty(len(scenes), 3, len(frames), 1, 1)
        )
        yield


@pytest.fixture(scope="module")
def pool():
    pool = WindowPool(
        CountingVae(), build_tokenizer(list_words()), capacity=4, seed=0, batch=2, switch_share=0.5, pair_share=0.5
    )
    pool.fill(4)
    return pool


@pytest.fixture(scope="module")
def windows(pool):
    torch.manual_seed(0)
    return pool.sample(400)


def test_a_window_is_the_first_chunk_and_consecutive_ones_behind_it(windows):
    assert windows.latents.shape == (400, WINDOW_CHUNKS, 16, CHUNK_FRAMES, 16, 24)
    frame = windows.latents[:, :, 1, :, 0, 0]
    assert (frame[:, 0] == torch.arange(CHUNK_FRAMES)).all()
    rest = frame[:, 1:].flatten(1)
    assert (rest.diff(dim=1) == 1).all()
    starts = rest[:, 0] / CHUNK_FRAMES
    assert set(starts.tolist()) == set(range(1, CLIP_CHUNKS - WINDOW_CHUNKS + 2))
    assert 0.4 < (starts == 1).float().mean() < 0.6


def test_chunks_count_where_a_stream_would_remember_as_much(windows):
    late = windows.latents[:, 1, 1, 0, 0, 0] > CHUNK_FRAMES
    assert windows.is_valid[~late].all()
    assert (windows.is_valid[late] == torch.tensor([True, False, False, True, True, True, True])).all()


def test_another_clip_and_prompt_follow_from_the_switch_on(pool, windows):
    clip = windows.latents[:, :, 0, 0, 0, 0]
    place = torch.arange(WINDOW_CHUNKS)
    before = place < windows.switch[:, None]
    assert (torch.where(before, clip, clip[:, :1]) == clip[:, :1]).all()
    assert (torch.where(before, clip[:, -1:], clip) == clip[:, -1:]).all()
    changed = windows.switch < WINDOW_CHUNKS
    assert 0.3 < changed.float().mean() < 0.6
    for number in range(40):
        for prompt, source in ((0, clip[number, 0]), (1, clip[number, -1])):
            if prompt == 0 or changed[number]:
                assert (pool.ids[int(source)] == windows.ids[number, prompt]).all(1).any()
    fresh = windows.is_fresh
    assert fresh[:, 0].all()
    assert (fresh.sum(1) == 1 + changed.long()).all()


def test_clips_side_by_side_meet_at_their_chunk(pool, windows):
    """Where the change is to the clip beside it, it is at the chunk at which they meet, or before the window."""
    clip, chunk = windows.latents[:, :, 0, 0, 0, 0].long(), windows.latents[:, :, 1, 0, 0, 0].long() // CHUNK_FRAMES
    seen = 0
    for number in range(400):
        switch = int(windows.switch[number])
        own, other = int(clip[number, 0]), int(clip[number, -1])
        if switch < WINDOW_CHUNKS and other == own ^ 1 and chunk[number, switch] == pool.meeting[own]:
            seen += 1
    assert seen > 20
    assert (pool.meeting[0::2] == pool.meeting[1::2]).all()


def test_single_sprites_are_moved_to_each_other_and_pairs_are_not():
    generator = torch.Generator().manual_seed(1)
    one, two = (sample_scenes(32, generator, pair_share=0.4) for _ in range(2))
    chunks = torch.randint(1, CLIP_CHUNKS, (32,), generator=generator)
    moved = move_to_meet(two, one, chunks)
    single = ~one.present_BK[:, 1] & ~two.present_BK[:, 1]
    assert 5 < single.sum() < 27
    time_s = torch.tensor([first_frame(int(chunk)) for chunk in chunks])[:, None] / 16
    here, there = place_sprites(one, 0, time_s), place_sprites(moved, 0, time_s)
    torch.testing.assert_close(here.x_BT[single], there.x_BT[single], atol=1e-3, rtol=0)
    torch.testing.assert_close(here.y_BT[single], there.y_BT[single], atol=1e-3, rtol=0)
    assert torch.equal(moved.x_BK[~single], two.x_BK[~single])
    assert torch.equal(moved.x_BK[:, 1], two.x_BK[:, 1])
    assert torch.equal(interleave(one, moved).x_BK[1::2], moved.x_BK)


def test_chunks_begin_where_their_first_latent_frame_is_decoded():
    """One pixel frame for the first latent frame of a video, four for each that follows."""
    frames = [0, *(1 + 4 * (latent - 1) for latent in range(1, 30))]
    assert [first_frame(chunk) for chunk in range(9)] == [frames[CHUNK_FRAMES * chunk] for chunk in range(9)]
    assert first_frame(1) == 9


def test_a_full_pool_replaces_its_oldest_clips():
    pool = WindowPool(CountingVae(), build_tokenizer(list_words()), capacity=4, seed=0, batch=2)
    pool.fill(4)
    pool.renew()
    assert pool.filled == 4
    assert pool.latents[:, 0, 0, 0, 0, 0].tolist() == [4, 5, 2, 3]
    with pytest.raises(ValueError, match="multiple of 3, which must be even"):
        WindowPool(CountingVae(), None, capacity=6, seed=0, batch=3)
