"""A picture divided among 2 and 4 ranks against one rank making the same calls; one world for all cases of a size."""

from pathlib import Path
from typing import Any

import pytest
import torch

from reelray.proto.errors import SizeError
from reelray.workers.models.wan.vae import DecodeState
from reelray.workers.models.wan.vae import margin as vae_margin
from reelray.workers.parallel import row_split
from reelray.workers.parallel.row_split import split_rows
from tests.support.gloo_world import run_world
from tests.workers.parallel import row_cases

Found = list[dict[str, Any]]
DECODES = [
    *[(2, ("decode", form), form, 5) for form in row_cases.FORMS],
    *[(2, ("decode narrow", form), form, 5) for form in ("inference", "fused")],
    *[(4, ("decode", form), form, 15) for form in ("plain", "fused")],
    (4, "short", "plain", 5),
]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Found]:
    def run(ranks: int, case: Any) -> Found:
        return run_world(case, ranks, Path(tmp_path_factory.mktemp(f"world{ranks}")))

    return {2: run(2, row_cases.two_ranks), 4: run(4, row_cases.four_ranks)}


def assert_same_state(mine: Any, theirs: Any) -> None:
    assert mine.facts == theirs.facts
    for slot, wanted in zip(mine.tiles[0], theirs.tiles[0], strict=True):
        assert (slot - wanted).abs().max() <= 1e-5 * max(wanted.abs().max(), 1)


@pytest.mark.parametrize(("ranks", "key", "form", "rows"), DECODES)
def test_rows_decode_as_the_whole_picture(worlds, ranks, key, form, rows):
    expected, state = row_cases.decode_alone(form, rows)
    shares = [count * row_cases.SCALE for count in split_rows(rows, ranks)]
    for rank, found in enumerate(worlds[ranks]):
        assert found[key]["own_rows"] == shares[rank]
        torch.testing.assert_close(found[key]["video"], expected, atol=1e-5, rtol=0)
        assert_same_state(found[key]["state"], state)
    assert shares != [shares[0]] * ranks


@pytest.mark.parametrize("form", ["inference", "subpixel"])
def test_channels_last_arithmetic_gives_the_same_bits(worlds, form):
    expected, state = row_cases.decode_alone(form, 5)
    assert torch.equal(worlds[2][0]["decode", form]["video"], expected)
    found = worlds[2][0]["decode", form]["state"]
    assert found == state
    assert all(slot.stride(1) == 1 for slot in found.tiles[0])


@pytest.mark.parametrize("ranks", [2, 4])
def test_pixels_and_state_reach_one_rank_or_all(worlds, ranks):
    for rank, world in enumerate(worlds[ranks]):
        found = world["decode", "plain"]
        levels = found["video"].mul(127.5).add(127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)
        assert found["bytes"].dtype == torch.uint8
        assert torch.equal(found["bytes"], levels)
        if rank == ranks - 1:
            assert torch.equal(found["bytes_to_last"], levels)
            assert found["state_to_last"] == found["state"]
        else:
            assert found["bytes_to_last"] is None
            assert found["state_to_last"] is None


@pytest.mark.parametrize(("ranks", "rows"), [(2, 5), (4, 9)])
def test_rows_encode_as_the_whole_picture(worlds, ranks, rows):
    mean, logvar, state = row_cases.encode_alone(rows)
    for world in worlds[ranks]:
        torch.testing.assert_close(world["encode"]["mean"], mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(world["encode"]["logvar"], logvar, atol=1e-5, rtol=0)
        assert_same_state(world["encode"]["state"], state)


def test_bf16_is_exchanged_as_bf16(worlds):
    vae = row_cases.build().to_inference("cpu")
    expected = vae.decode(row_cases.draw_latents(5, 2), vae.new_decode_state(batch=2))
    assert worlds[2][1]["half"].dtype == torch.bfloat16
    assert (worlds[2][1]["half"].float() - expected.float()).norm() < 0.02 * expected.float().norm()


@pytest.mark.parametrize(("ranks", "form", "rows"), [(2, "plain", 5), (2, "fused", 5), (4, "plain", 15)])
def test_one_rank_s_stored_state_goes_on_in_rows(worlds, ranks, form, rows):
    expected, _ = row_cases.decode_alone(form, rows)
    found = worlds[ranks][0]["resume"][form]
    torch.testing.assert_close(found, expected[:, :, -found.shape[2] :], atol=1e-5, rtol=0)


def test_four_ranks_stored_state_goes_on_on_one_and_on_two(worlds):
    expected, _ = row_cases.decode_alone("plain", 15)
    state = DecodeState.from_bytes(worlds[4][0]["paused"])
    alone = row_cases.build().decode(row_cases.draw_latents(15)[:, :, -row_cases.CHUNKS[-1] :], state)
    for found in (alone, worlds[4][2]["resume on two"], worlds[4][3]["resume on two"]):
        torch.testing.assert_close(found, expected[:, :, -found.shape[2] :], atol=1e-5, rtol=0)


def test_two_rows_of_margin_need_half_the_messages(worlds):
    """33 convolutions reach across a border, the first with rows that need not be sent; one gather for attention."""
    assert worlds[2][0]["exchanges"] == {1: [2] * 29, 2: [2] * 15}
    # Each inner rank talks to two neighbours, and in the gather to all.
    assert worlds[4][1]["exchanges"] == {2: [4, 6] + [4] * 13}


@pytest.mark.parametrize("ranks", [2, 4])
def test_what_does_not_fit_is_refused_on_every_rank_before_anything_is_sent(worlds, ranks):
    for world in worlds[ranks]:
        few, narrow, tall, wide, tiled = world["refusals"]
        assert f"{ranks - 1} latent rows over {ranks} ranks: each rank needs at least 1" in few
        assert "margins of 2 rows: allowed are 1 to 1" in narrow
        assert f"a picture of {ranks + 1}x4: this group takes {ranks} rows" in tall
        assert f"a picture of {8 * ranks}x15" in wide
        assert "cannot be cut into tiles" in tiled


@pytest.mark.parametrize(
    ("rows", "ranks", "counts"), [(15, 4, (4, 4, 4, 3)), (60, 4, (15,) * 4), (5, 4, (2, 1, 1, 1)), (3, 1, (3,))]
)
def test_rows_are_dealt_as_evenly_as_can_be(rows, ranks, counts):
    assert split_rows(rows, ranks) == counts


def test_too_few_rows_are_refused():
    with pytest.raises(SizeError, match="3 latent rows over 4 ranks"):
        split_rows(3, 4)


def test_the_network_and_the_group_agree_on_the_widest_margin():
    assert row_split.WIDEST == vae_margin.WIDEST
