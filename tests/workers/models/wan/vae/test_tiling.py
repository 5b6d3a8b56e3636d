from itertools import pairwise

import pytest
import torch

from reelray.proto.errors import ResourceError
from reelray.workers.models.wan.vae import DecodeState, Tiling
from reelray.workers.models.wan.vae.tiling import cut_spans, cut_tiles, join_tiles
from tests.workers.models.wan.vae.oracle import make_pair

LATENTS = torch.randn(1, 16, 3, 10, 13, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("length", "tile", "overlap"), [(10, 4, 1), (10, 4, 3), (13, 5, 2), (7, 7, 2), (9, 8, 0)])
def test_spans_cover_everything_with_tiles_of_one_size(length: int, tile: int, overlap: int) -> None:
    spans = cut_spans(length, Tiling(tile=tile, overlap=overlap))
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert {end - start for start, end in spans} == {tile}
    assert all(b[0] <= a[1] - overlap and b[0] > a[0] for a, b in pairwise(spans))


@pytest.mark.parametrize("scale", [1, 4])
def test_joining_uncut_content_gives_it_back(scale: int) -> None:
    frame = torch.randn(1, 3, 2, 10 * scale, 13 * scale)
    rows, columns = cut_spans(10, Tiling(tile=4, overlap=2)), cut_spans(13, Tiling(tile=6, overlap=3))
    joined = join_tiles(cut_tiles(frame, rows, columns, scale), rows, columns, scale)
    torch.testing.assert_close(joined, frame, atol=1e-6, rtol=0)


def test_neighbours_are_blended_linearly() -> None:
    tiles = [torch.zeros(1, 1, 1, 1, 4), torch.ones(1, 1, 1, 1, 4)]
    joined = join_tiles(tiles, ((0, 1),), ((0, 4), (2, 6)), 1)
    assert joined.flatten().tolist() == [0, 0, 0.25, 0.75, 1, 1]


def test_tiled_stream_is_cut_invariant_storable_and_close_to_the_whole() -> None:
    ours, _ = make_pair()
    whole = ours.decode(LATENTS, ours.new_decode_state())
    tiling = Tiling(tile=8, overlap=4)
    expected = ours.decode(LATENTS, ours.new_decode_state(tiling=tiling))
    state = ours.new_decode_state(tiling=tiling)
    start = ours.decode(LATENTS[:, :, :1], state)
    assert len(state.tiles) == 6
    loaded = DecodeState.from_bytes(state.to_bytes())
    assert loaded == state
    rest = ours.decode(LATENTS[:, :, 1:], loaded)
    assert torch.equal(torch.cat([start, rest], dim=2), expected)
    assert expected.shape == whole.shape
    # Attention and the wide receptive field see less in a tile: close, not equal.
    assert (expected - whole).abs().mean() < 0.2 * whole.std()


def test_a_frame_no_larger_than_a_tile_is_not_cut() -> None:
    ours, _ = make_pair()
    expected = ours.decode(LATENTS, ours.new_decode_state())
    assert torch.equal(ours.decode(LATENTS, ours.new_decode_state(tiling=Tiling(tile=13))), expected)


def test_tiled_encode_keeps_shape_and_comes_close() -> None:
    ours, _ = make_pair()
    video = torch.rand(1, 3, 5, 64, 80) * 2 - 1
    mean, _ = ours.encode(video, ours.new_encode_state())
    tiled, _ = ours.encode(video, ours.new_encode_state(tiling=Tiling(tile=8, overlap=4)))
    assert tiled.shape == mean.shape
    assert (tiled - mean).abs().mean() < 0.2 * mean.std()


def test_choose_tiling_takes_none_then_smaller_tiles_then_refuses() -> None:
    ours, _ = make_pair()
    need = ours.decode_bytes(256, 384, 4)
    assert ours.choose_tiling(256, 384, 4, budget_bytes=need) is None
    some = ours.choose_tiling(256, 384, 4, budget_bytes=int(need * 0.95))
    assert some is not None
    less = ours.choose_tiling(256, 384, 4, budget_bytes=int(need * 0.85))
    assert less is not None
    assert less.tile < some.tile < 48
    with pytest.raises(ResourceError, match="does not fit into the free 0 MB"):
        ours.choose_tiling(256, 384, 4, budget_bytes=1000)


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (4, 4), (4, -1)])
def test_a_tiling_without_progress_is_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        Tiling(tile=tile, overlap=overlap)
