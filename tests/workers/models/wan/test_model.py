"""The loaded model behind the engine's seam: batches, windows, images, frames."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reelray.proto.errors import ResourceError, UnsupportedError
from reelray.workers.models.attention_op import View, WindowAttention
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.models.sharding import WholeWindow
from reelray.workers.models.wan.decoding import DECODE_SHARE
from reelray.workers.models.wan.model import WanModel
from reelray.workers.models.wan.text_context import CrossContext

PROMPTS = ["a red circle", "the green square moves right on a blue background"]


@pytest.fixture(scope="module")
def t2v(tiny_t2v: Path) -> WanModel:
    return open_checkpoint(tiny_t2v, device="cpu")


@pytest.fixture(scope="module")
def i2v(tiny_i2v: Path) -> WanModel:
    return open_checkpoint(tiny_i2v, device="cpu")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_pixels(seed: int) -> Tensor:
    return torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_rows_of_a_batch_are_those_of_lone_forwards(t2v: WanModel) -> None:
    latents, texts = draw(2, 16, 3, 4, 4), t2v.encode_text(PROMPTS)
    timestep = torch.tensor([[900.0, 900, 900], [400, 300, 200]])
    positions = torch.tensor([[0, 1, 2], [5, 6, 7]])
    together = t2v.denoise(latents, timestep, texts, positions_BT=positions)
    assert together.shape == latents.shape
    assert together.dtype == torch.float32
    for row in range(2):
        rows = slice(row, row + 1)
        alone = t2v.denoise(latents[rows], timestep[rows], texts[rows], positions_BT=positions[rows])
        torch.testing.assert_close(together[rows], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_a_small_clip_attends_each_slot_of_a_prompt_and_a_large_one_merged_padding(
    t2v: WanModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, timestep, positions = draw(1, 16, 3, 4, 4), torch.full((1, 3), 500.0), torch.arange(3)[None]
    (text,) = t2v.encode_text(PROMPTS[:1])
    assert text.tokens < text.unmerged.tokens

    def denoise(context: CrossContext, view: View | None = None) -> Tensor:
        return t2v.denoise(latents, timestep, [context], positions_BT=positions, view=view)

    small, merged = denoise(text), denoise(replace(text, unmerged=None))
    assert torch.equal(small, denoise(text.unmerged))
    assert not torch.equal(small, merged)
    assert torch.equal(denoise(text, View()), merged)  # windows of a stream
    monkeypatch.setattr("reelray.workers.models.wan.model.SMALL_WINDOW", 11)
    assert torch.equal(denoise(text), merged)
    torch.testing.assert_close(small, merged, rtol=1e-4, atol=1e-5)


def test_prompt_timestep_and_image_matter(i2v: WanModel) -> None:
    latents, positions = draw(1, 16, 3, 4, 4), torch.arange(3)[None]
    texts = i2v.encode_text(PROMPTS)
    images = [[i2v.encode_image(draw_pixels(seed), frames=9)] for seed in (1, 2)]
    results = [
        i2v.denoise(latents, torch.full((1, 3), timestep), [text], positions_BT=positions, image=image)
        for timestep, text, image in [
            (500.0, texts[0], images[0]),
            (400.0, texts[0], images[0]),
            (500.0, texts[1], images[0]),
            (500.0, texts[0], images[1]),
        ]
    ]
    for other in results[1:]:
        assert (results[0] - other).abs().max() > 1e-4


def test_a_window_sees_the_condition_of_its_own_frames(i2v: WanModel) -> None:
    latents, timestep, text = draw(1, 16, 1, 4, 4), torch.full((1, 1), 500.0), i2v.encode_text(PROMPTS[:1])
    image = i2v.encode_image(draw_pixels(1), frames=9)
    assert image.beside.shape == (1, 20, 3, 4, 4)
    for frame in range(3):
        cut = type(image)(context=image.context, beside=image.beside[:, :, frame : frame + 1].repeat(1, 1, 3, 1, 1))
        position = torch.tensor([[frame]])
        ours = i2v.denoise(latents, timestep, text, positions_BT=position, image=[image])
        assert torch.equal(ours, i2v.denoise(latents, timestep, text, positions_BT=position, image=[cut]))


def test_an_image_goes_with_an_i2v_checkpoint_and_no_other(t2v: WanModel, i2v: WanModel) -> None:
    latents, timestep, positions = draw(1, 16, 1, 4, 4), torch.full((1, 1), 500.0), torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(UnsupportedError, match="makes videos from text alone"):
        t2v.encode_image(draw_pixels(1), frames=1)
    with pytest.raises(UnsupportedError, match="this i2v checkpoint needs a first frame"):
        i2v.denoise(latents, timestep, i2v.encode_text(["a"]), positions_BT=positions)
    image = i2v.encode_image(draw_pixels(1), frames=1)
    with pytest.raises(UnsupportedError, match="this t2v checkpoint takes no image"):
        t2v.denoise(latents, timestep, t2v.encode_text(["a"]), positions_BT=positions, image=[image])


def test_frames_do_not_depend_on_how_latents_are_cut(t2v: WanModel) -> None:
    latents = draw(1, 16, 4, 4, 6)
    whole = t2v.decode(latents, t2v.new_decode_state())
    assert whole.shape == (13, 32, 48, 3)
    assert whole.dtype == torch.uint8
    assert whole.is_contiguous()
    state, parts = t2v.new_decode_state(), []
    for first, last in ((0, 1), (1, 3), (3, 4)):
        parts.append(t2v.decode(latents[:, :, first:last], state))
    assert [len(part) for part in parts] == [1, 8, 4]
    assert torch.equal(torch.cat(parts), whole)


def test_bfloat16_stays_near_float32(tiny_t2v: Path, t2v: WanModel) -> None:
    half = open_checkpoint(tiny_t2v, device="cpu", dtype=torch.bfloat16)
    latents, timestep, positions = draw(1, 16, 3, 4, 4), torch.full((1, 3), 500.0), torch.arange(3)[None]
    ours, exact = (
        model.denoise(latents, timestep, model.encode_text(PROMPTS[:1]), positions_BT=positions)
        for model in (half, t2v)
    )
    assert ours.dtype == torch.float32
    assert (ours - exact).norm() / exact.norm() < 0.03
    frames = half.decode(latents, half.new_decode_state()).float() - t2v.decode(latents, t2v.new_decode_state()).float()
    assert frames.abs().mean() < 3


def test_a_decode_is_tiled_only_where_memory_is_short(t2v: WanModel, monkeypatch: pytest.MonkeyPatch) -> None:
    latents, need = draw(1, 16, 3, 16, 24), t2v.parts.vae.decode_bytes(128, 192, 1)
    found = {}
    for share in (None, 1.1, 0.95):
        free = 10**15 if share is None else int(need * share / DECODE_SHARE)
        monkeypatch.setattr("reelray.workers.models.wan.decoding.free_bytes", lambda _device, free=free: free)
        state = t2v.new_decode_state()
        frames = torch.cat([t2v.decode(part, state) for part in latents.split(1, dim=2)])
        found[share] = (frames.float(), len(state.tiles))
    assert torch.equal(found[None][0], found[1.1][0])
    assert [tiles for _, tiles in found.values()][:2] == [1, 1]
    assert found[0.95][1] > 1
    assert found[0.95][0].shape == found[None][0].shape
    monkeypatch.setattr("reelray.workers.models.wan.decoding.free_bytes", lambda _device: 1000)
    with pytest.raises(ResourceError, match="192x128"):
        t2v.decode(latents, t2v.new_decode_state())


def test_forwards_are_shared_as_the_sharding_says(tiny_t2v: Path) -> None:
    class FirstOfTwo(WholeWindow):
        """Works on the first row of every frame and finds the other row elsewhere."""

        def shard(self, frames: int, places: int, view: View | None = None) -> "FirstOfTwo":
            assert view is None
            self.asked, self.taken, self.cells = (frames, places), [], (frames, places)
            self.attention = OwnToken()
            return self

        def take(self, tokens_BSC: Tensor) -> Tensor:
            self.taken.append(tokens_BSC.shape[1])
            return tokens_BSC.unflatten(1, self.cells)[:, :, : self.cells[1] // 2].flatten(1, 2)

        def join(self, tokens_BSC: Tensor) -> Tensor:
            cells = tokens_BSC.unflatten(1, (self.cells[0], -1))
            return torch.cat([cells, 0 * cells], 2).flatten(1, 2)

    class OwnToken(WindowAttention):
        """Every token sees itself alone, so that the other row is not needed."""

        def __call__(self, *parts: Tensor, **_: object) -> Tensor:
            return parts[2]

    model = open_checkpoint(tiny_t2v, device="cpu")
    latents, text, positions = draw(1, 16, 3, 8, 4), model.encode_text(PROMPTS[:1]), torch.arange(3)[None]
    timestep = torch.tensor([[900.0, 500.0, 100.0]])
    sharding = FirstOfTwo()
    model.use_sharding(sharding)
    shared = model.denoise(latents, timestep, text, positions_BT=positions)
    assert sharding.asked == (3, 8)
    assert sharding.taken == [24, 24, 24]  # patches, cosines, sines
    whole = WholeWindow()
    whole.attention = OwnToken()
    model.use_sharding(whole)
    expected = model.denoise(latents, timestep, text, positions_BT=positions)
    assert shared.shape == expected.shape
    assert not shared[..., 4:, :].any()
    torch.testing.assert_close(shared[..., :4, :], expected[..., :4, :], rtol=1e-5, atol=1e-5)


def test_a_mixed_text_adds_embeddings_up(t2v: WanModel) -> None:
    """Not predictions, nor keys: what the text projection reads."""
    prompts = ["a red circle", "a blue star spins and leaves"]
    rows = t2v.parts.text_encoder.encode(prompts)
    with torch.no_grad():
        wanted = t2v.parts.transformer.prepare_text((0.25 * rows[0] + 0.75 * rows[1])[None], merge_padding=False)
    found = t2v.mix_text(prompts, [0.25, 0.75])
    latents, times = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(1)), torch.full((1, 2), 500.0)
    places = torch.arange(2)[None]
    gap = t2v.denoise(latents, times, [found], positions_BT=places) - t2v.denoise(
        latents, times, [wanted], positions_BT=places
    )
    assert gap.abs().max() < 1e-5
    (alone,) = t2v.encode_text(prompts[1:])
    assert all(torch.equal(a, b) for a, b in zip(t2v.mix_text(prompts[1:], [1.0]).keys, alone.keys, strict=True))


def test_pictures_of_a_settled_size_are_decoded_as_settled_whatever_memory_is_left(t2v, monkeypatch):
    """Else a stream's pixels would depend on how many others there are."""
    latents = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    state = t2v.new_decode_state()
    wanted = t2v.decode(latents, state)
    assert state.tiling is None
    t2v.settle_decode(latents, state)
    monkeypatch.setattr("reelray.workers.models.wan.decoding.free_bytes", lambda _device: 1000)
    state = t2v.new_decode_state()
    assert torch.equal(t2v.decode(latents, state), wanted)
    assert state.tiling is None
    t2v.work_alone()
    with pytest.raises(ResourceError):
        t2v.decode(latents, t2v.new_decode_state())
