"""Layers split over ranks: exact pipelines give the bits of one rank, the patch pipeline is near it."""

from dataclasses import dataclass

import pytest
import torch

from reelray.proto.errors import EngineError, InputError, SizeError, UnsupportedError
from reelray.proto.patching import Patching
from reelray.workers.parallel.layer_split import split_layers
from reelray.workers.parallel.local_ranks import run_ranks
from reelray.workers.parallel.patch_keys import split_patches
from tests.support.pipe_cases import BF16, LAYOUTS, run_world
from tests.support.requests import make_recipe, make_request

GPUS = [pytest.param((ranks, "cuda"), marks=pytest.mark.multigpu) for ranks in LAYOUTS]

REQUEST = make_request(
    "a", prompt="a red circle", negative_prompt="blue", recipe=make_recipe(steps=3, chunk=2), latent_frames=4
)


@dataclass(frozen=True)
class World:
    ranks: int
    device: str
    results: list[dict]


@pytest.fixture(scope="module", params=[(2, "cpu"), (4, "cpu"), *GPUS], ids="{0[0]} {0[1]}".format)
def world(request, tiny_t2v):
    ranks, device = request.param
    if device == "cuda" and torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} CUDA devices")
    return World(ranks, device, run_ranks(run_world, tiny_t2v, REQUEST, ranks=ranks, device=device, deadline_s=150))


def test_every_exact_pipeline_gives_the_bits_of_one_rank(world) -> None:
    seen = 0
    for result in world.results:
        for (layout, model, dtype), ways in result["exact"].items():
            for (way, weight), (found, expected) in ways.items():
                case = (layout, model, dtype, way, weight)
                assert expected.abs().mean() > 0.1
                seen += 1
                if "ulysses" in layout:  # fewer tokens in a linear layer add up in another order
                    limit = 1e-1 if dtype == BF16 else 1e-5
                    assert (found - expected).abs().max() <= limit, case
                else:
                    assert torch.equal(found, expected), case
    assert seen == {2: 2 * 12, 4: 4 * 42}[world.ranks]


def test_all_ranks_hold_the_same_bits(world) -> None:
    for case, ways in world.results[0]["exact"].items():
        for way, (expected, _) in ways.items():
            assert all(torch.equal(result["exact"][case][way][0], expected) for result in world.results), (case, way)


def test_streams_of_chunks_are_exact_and_fill_the_line(world) -> None:
    ranks = world.ranks
    for result in world.results:
        assert all(found["equal"] and found["moved"] for found in result["stream"].values())
        alone = result["stream"][1]["log"]
        assert alone == ["take 0", *["wait"] * (ranks - 1), "got 0"] * 2 + ["take 0", "got 0"]
        full = result["stream"][ranks]["log"]
        assert full[:ranks] == [f"take {video}" for video in range(ranks)]
        assert full[ranks : ranks + 4] == ["got 0", "take 0", "got 1", "take 1"]
        assert "wait" not in full
        assert result["stream"][ranks + 2]["log"][: ranks + 1] == [
            *(f"take {video}" for video in range(ranks)),
            "got 0",
        ]


def test_each_rank_has_its_layers(world) -> None:
    pipe = {2: ("pipe=2", [range(3), range(3, 5)]), 4: ("pipe=4", [range(1), range(1, 3), range(3, 4), range(4, 5)])}
    layout, expected = pipe[world.ranks]
    assert [result["layers"][layout] for result in world.results] == expected


def test_what_cannot_be_piped_is_refused_by_every_rank(world) -> None:
    ranks = world.ranks
    for result in world.results:
        found = result["refused"]
        assert isinstance(found["layers"], UnsupportedError)
        assert f"{ranks - 1} layers cannot be shared by pipe={ranks}" in found["layers"].message
        assert isinstance(found["elsewhere"], ValueError)
        assert "is not here" in str(found["elsewhere"])
        assert isinstance(found["no stages"], EngineError)
        assert isinstance(found["deferred"], RuntimeError | NotImplementedError)
        assert isinstance(found["patches"], SizeError)
        assert "a latent frame of 35 tokens cannot be cut into 36 patches" in found["patches"].message
        assert ("ulysses" in found) == (ranks == 4)
        if ranks == 4:
            assert isinstance(found["ulysses"], UnsupportedError)


def test_the_engine_renders_on_some_layers_what_it_renders_alone(world) -> None:
    if world.ranks != 2:
        return
    for result in world.results:
        videos = result["videos"]
        assert len(set(videos["alone"])) > 20
        for way in ("sequential", "pipelined", "all exact"):
            assert videos[way] == videos["alone"], way
        assert videos["patches"] != videos["alone"]
        assert videos["patches"] == world.results[0]["videos"]["patches"]


def test_requests_in_one_line_give_the_bytes_that_each_gives_alone(world) -> None:
    for result in world.results:
        found = result["line"]
        assert found["equal"] == dict.fromkeys(("a", "b", "c", "patched"), True)
        assert found["far"]  # its patches did something
        assert found["lines"][:6] == [2, 1, 2, 2, 2, 2]  # in the second, the other one cannot begin


def test_a_request_that_cannot_join_the_line_fails_alone(world) -> None:
    for result in world.results:
        assert result["line"]["failures"] == [
            ("broken", "recipe fake: per_step holds 2 weights; the schedule has 3 steps")
        ]


def test_a_step_in_the_line_is_paid_once_by_each(world) -> None:
    for result in world.results:
        costs = result["line"]["costs"]
        assert costs == {
            "a": [(2, True)] * 8,
            "b": [(1, True)] * 3,
            "broken": [],
            "c": [(2, True)] * 5,
            "patched": [(2, True)] * 4,
        }


def test_patches_in_exact_steps_change_no_bit(world) -> None:
    for result in world.results:
        for case in ("all exact", "one patch"):
            assert result["patches"][case] == (0.0, True), case
        assert result["patches"]["flags"] == [True, False, True]


def test_stale_keys_that_equal_fresh_ones_change_nothing(world) -> None:
    """Would fail if keys of two layers, branches or patches were mixed up."""
    limit = 1e-5 if world.device == "cuda" else 2e-6
    for result in world.results:
        assert all(gap <= limit for gap in result["patches"]["same twice"].values())
        assert result["i2v patches"] <= limit
        assert result["patches"]["new latents"] > 1e-2


def test_the_error_of_patches_shrinks_with_the_step(world) -> None:
    print({key: world.results[0]["patches"][key] for key in ("walk", "slow walk", "new latents")})
    for result in world.results:
        for patches, (error, _) in result["patches"]["walk"].items():
            assert 1e-4 < error < 0.1
            assert result["patches"]["slow walk"][patches][0] < 0.5 * error


def test_steps_that_a_branch_sat_out_make_its_next_one_exact(world) -> None:
    for result in world.results:
        assert result["patches"]["sat out"] == 0.0


def test_keys_belong_to_a_request_and_can_be_forgotten(world) -> None:
    for result in world.results:
        held, expected = result["patches"]["bytes"]
        assert held == expected > 0
        assert result["patches"]["reset"] == (0, 0.0)
        assert result["patches"]["two requests"]


def test_patches_on_parallel_branches_equal_patches_on_pipelined_ones(world) -> None:
    if world.ranks != 4:
        return
    for result in world.results:
        equal, error = result["cfg patches"]
        assert equal
        assert error > 1e-2


@pytest.mark.parametrize(
    ("layers", "ranks", "counts"),
    [
        (3, 2, (2, 1)),
        (5, 4, (1, 2, 1, 1)),
        (7, 4, (2, 2, 2, 1)),
        (40, 3, (13, 14, 13)),
        (30, 4, (7, 8, 8, 7)),
        (4, 4, (1,) * 4),
    ],
)
def test_layers_are_dealt_evenly_and_inner_ranks_take_more(layers, ranks, counts) -> None:
    found = split_layers(layers, ranks)
    assert tuple(map(len, found)) == counts
    assert [layer for part in found for layer in part] == list(range(layers))


def test_patches_cover_every_frame_alike() -> None:
    patches = split_patches(3, 35, 4)
    assert [len(patch.shares[patch.index]) for patch in patches] == [9, 9, 9, 8]
    tokens = torch.arange(3 * 35).view(1, -1, 1)
    assert torch.equal(patches[0].join([patch.take(tokens) for patch in patches]), tokens)


@pytest.mark.parametrize("wrong", [{"patches": 0}, {"patches": 2, "exact_steps": 0}])
def test_wrong_patchings_are_named(wrong) -> None:
    with pytest.raises(InputError, match="is 0; it must be at least 1"):
        Patching(**wrong)
