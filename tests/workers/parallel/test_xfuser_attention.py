"""xfuser's attention beside one rank: the cases that ours is held to, or a refusal."""

import pytest
import torch

from reelray.proto.errors import EngineError, UnsupportedError
from reelray.workers.parallel.attention_choice import MEASURED, Measurement, prefers_xfuser
from reelray.workers.parallel.local_ranks import run_ranks
from reelray.workers.parallel.token_split import TokenSplit
from reelray.workers.parallel.xfuser_attention import explain_refusal
from tests.support.parallel_cases import World
from tests.support.xfuser_cases import run_xfuser

pytestmark = pytest.mark.usefixtures("diffusers_in_ranks")
F32, BF16 = torch.float32, torch.bfloat16
LAYOUTS = {
    2: ["ulysses=2", "ring=2"],
    4: ["ulysses=4", "ring=2,ulysses=2", "ring=4", "cfg=2,ulysses=2", "cfg=2,ring=2"],
}
TOLERANCE = {("cpu", F32): 1e-5, ("cpu", BF16): 6e-2, ("cuda", F32): 5e-5, ("cuda", BF16): 1e-1}
GPUS = [pytest.param((ranks, "cuda"), marks=pytest.mark.multigpu) for ranks in LAYOUTS]
EVEN = {"size": (3, 8, 16)}  # 32 tokens a frame
ODD = {"size": (3, 10, 14)}  # 35: the last of 2 and of 4 is one short
TWO_SHORT = {"size": (2, 4, 14)}  # 14: two of 4 are one short


def plan_exact(ranks):
    cases = [(layout, "t2v", dtype, EVEN) for layout in LAYOUTS[ranks] for dtype in (F32, BF16)]
    # the image model has three heads
    cases += [(layout, "t2v" if "ulysses" in layout else "i2v", F32, {**EVEN, "batch": 2}) for layout in LAYOUTS[ranks]]
    ulysses = [layout for layout in LAYOUTS[ranks] if "ring" not in layout]
    cases += [(layout, "t2v", dtype, {**ODD, "batch": 2}) for layout in ulysses for dtype in (F32, BF16)]
    cases += [(layout, "t2v", F32, {"size": (2, 2, 2 * ranks)}) for layout in LAYOUTS[ranks]]
    # the layouts in turn, three times more
    return cases + [(layout, "t2v", F32, EVEN) for _ in range(3) for layout in LAYOUTS[ranks]]


EXACT = {ranks: plan_exact(ranks) for ranks in LAYOUTS}
REFUSED = {
    2: [("ring=2", "t2v", F32, ODD), ("ulysses=2", "i2v", F32, EVEN)],
    4: [
        ("ring=2,ulysses=2", "t2v", F32, ODD),
        ("cfg=2,ring=2", "t2v", F32, ODD),
        ("ulysses=4", "t2v", F32, TWO_SHORT),
        ("ulysses=4", "three heads", F32, EVEN),
    ],
}
WORDS = {
    2: ["35 tokens of a latent frame are not equal parts of ring=2,ulysses=1", "3 heads are not a multiple"],
    4: [
        "35 tokens of a latent frame are not equal parts of ring=2,ulysses=2",
        "not equal parts of ring=2,ulysses=1",
        "14 tokens of a latent frame leave more than the last of ulysses=4 short",
        "3 heads are not a multiple of ulysses=4",
    ],
}
ATTENTIONS = {
    ranks: [
        (layout, {"heads": heads, "places": places})
        for layout in LAYOUTS[ranks]
        for heads in (4, 8)
        for places in (12, 11)
        if places == 12 or "ring" not in layout
    ]
    for ranks in LAYOUTS
}


def measure(ranks, **changes):
    row = {"ring": 1, "ulysses": ranks, "tokens": 36, "heads": 4, "ours_ms": 2.0, "xfuser_ms": 1.0}
    return Measurement(**(row | changes))


@pytest.fixture(scope="module", params=[(2, "cpu"), (4, "cpu"), *GPUS], ids="{0[0]} {0[1]}".format)
def world(request):
    ranks, device = request.param
    if device == "cuda" and torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} CUDA devices")
    measured = [(measure(ranks),), (measure(ranks, xfuser_ms=3.0),), ()]
    given = (LAYOUTS[ranks], EXACT[ranks] + REFUSED[ranks], ATTENTIONS[ranks], measured)
    return World(ranks, device, run_ranks(run_xfuser, *given, ranks=ranks, device=device, deadline_s=150))


def test_every_supported_case_predicts_what_one_rank_predicts(world, one_rank) -> None:
    gaps = {}
    for number, (layout, name, dtype, options) in enumerate(EXACT[world.ranks]):
        expected = one_rank(world.device, name, dtype, options)
        assert expected.abs().mean() > 0.1
        for result in world.results:
            found = result["predictions"][number]
            assert not isinstance(found, Exception), (layout, name, options, found)
            gap = (found - expected).abs().max().item()
            assert gap <= TOLERANCE[world.device, dtype], (layout, name, dtype, options, gap)
            gaps[layout, dtype] = max(gap, gaps.get((layout, dtype), 0.0))
    print(gaps)


def test_attention_rows_come_back_in_the_order_of_the_shard(world) -> None:
    cases = [case for case in ATTENTIONS[world.ranks] for _ in ("packed", "three exchanges")]
    for result in world.results:
        for case, gap in zip(cases, result["gaps"], strict=True):
            assert not isinstance(gap, Exception), (case, gap)
            assert gap <= (5e-6 if world.device == "cuda" else 1e-6), (case, gap)


def test_what_is_not_exact_is_refused_by_every_rank(world) -> None:
    for result in world.results:
        errors = result["predictions"][len(EXACT[world.ranks]) :]
        for words, error in zip(WORDS[world.ranks], errors, strict=True):
            assert isinstance(error, UnsupportedError), error
            assert words in error.message


def test_no_group_is_made(world) -> None:
    for result in world.results:
        assert len(result["groups"]) > 4 * len(LAYOUTS[world.ranks])
        assert len(set(result["groups"])) == 1


def test_a_closed_mesh_is_named(world) -> None:
    for result in world.results:
        assert isinstance(result["closed"], EngineError)


def test_without_cuda_it_is_refused_before_it_is_imported(world) -> None:
    for result in world.results:
        assert result["before"] == []
        if world.device == "cpu":
            assert isinstance(result["refused"], UnsupportedError)
            assert "needs a CUDA device" in result["refused"].message


def test_measurements_decide_which_is_called(world) -> None:
    for result in world.results:
        assert [calls for calls, _ in result["calls"]] == [1, 0, 0]
        assert all(gap <= 5e-6 for _, gap in result["calls"])


def test_a_lane_loads_xfuser_only_for_cuda_and_where_it_was_faster(world) -> None:
    for result in world.results:
        assert result["ours"] == [world.device == "cpu", True, True]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, True),
        ({"xfuser_ms": 1.99}, False),
        ({"heads": 8}, False),
        ({"ulysses": 4}, False),
        ({"ring": 2}, False),
        ({"tokens": 72}, True),
        ({"tokens": 80}, False),
    ],
)
def test_only_a_measurement_that_is_near_and_clear_is_followed(changes, wanted) -> None:
    assert prefers_xfuser(TokenSplit(frames=3, places=12, ulysses=2), 4, [measure(2, **changes)]) is wanted


def test_the_nearest_measurement_is_followed() -> None:
    measured = [measure(2, tokens=30, xfuser_ms=4.0), measure(2, tokens=70)]
    assert not prefers_xfuser(TokenSplit(frames=3, places=12, ulysses=2), 4, measured)
    assert prefers_xfuser(TokenSplit(frames=3, places=20, ulysses=2), 4, measured)


def test_what_is_not_exact_is_never_preferred() -> None:
    split = TokenSplit(frames=3, places=14, ulysses=4)
    assert explain_refusal(split) is not None
    assert not prefers_xfuser(split, 4, [measure(4)])


def test_ours_is_taken_until_something_was_measured() -> None:
    assert MEASURED == ()
