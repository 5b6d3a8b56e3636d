"""Several ranks predict what one rank predicts."""

from dataclasses import replace

import pytest
import torch

from reelray.proto.errors import EngineError, SizeError, UnsupportedError
from reelray.proto.recipe import Guidance
from reelray.workers.parallel.local_ranks import run_ranks
from tests.support.parallel_cases import World, render_request, run_cases
from tests.support.requests import make_recipe, make_request

F32, BF16 = torch.float32, torch.bfloat16
LAYOUTS = {
    2: ["ulysses=2", "ring=2", "cfg=2", "replica=2"],
    4: ["ulysses=4", "ring=4", "ring=2,ulysses=2", "cfg=2,ulysses=2", "cfg=2,ring=2", "replica=2,ulysses=2"],
}
# Linear layers of other row counts add up in another order, so a prediction may move by a last bit even where the
# attention does not.
TOLERANCE = {("cpu", F32): 1e-5, ("cpu", BF16): 6e-2, ("cuda", F32): 5e-5, ("cuda", BF16): 1e-1}
GPUS = [pytest.param((ranks, "cuda"), marks=pytest.mark.multigpu) for ranks in LAYOUTS]


def plan_cases(ranks):
    cases = [(layout, "t2v", F32, {}) for layout in LAYOUTS[ranks]]
    sequence = [layout for layout in LAYOUTS[ranks] if "replica" not in layout and layout != "cfg=2"]
    ulysses = [layout for layout in sequence if "ulysses" in layout]
    cases += [(layout, "i2v" if ranks == 2 else "t2v", F32, {"per_frame": False, "batch": 2}) for layout in sequence]
    cases += [(layout, "i2v", F32, {}) for layout in sequence if layout != "ulysses=4"]
    cases += [(layout, "t2v", F32, {"head_groups": groups}) for layout in ulysses for groups in (1, 2, 9)]
    cases += [
        (layout, "three heads", F32, {"head_groups": g}) for layout in ulysses for g in (0, 1, 2) if "=4" not in layout
    ]
    cases += [(layout, "t2v", F32, {"weight": 1.0}) for layout in LAYOUTS[ranks] if "cfg" in layout]
    cases += [(layout, "t2v", BF16, {}) for layout in sequence]
    # one place more than ranks, and as many
    cases += [(layout, "t2v", F32, {"size": (2, 2, 2 * n)}) for layout in sequence for n in (ranks, ranks + 1)]
    cases += [(layout, "t2v", F32, {"core": True, "per_frame": False}) for layout in ulysses if "ring" not in layout]
    # five more switches over all layouts
    cases += [(layout, "t2v", F32, {}) for _ in range(5) for layout in LAYOUTS[ranks]]
    return cases


REFUSED = {
    2: [
        ("ulysses=2", "t2v", F32, {"size": (2, 2, 2)}),
        ("ring=2", "t2v", F32, {"core": True, "per_frame": False}),
    ],
    4: [("ulysses=4", "three heads", F32, {})],
}
ATTENTIONS = [
    (layout, {"heads": heads, "head_groups": groups})
    for layout in [*LAYOUTS[2], *LAYOUTS[4]]
    for heads in (4, 7)
    for groups in (0, 1, 2, 9)
]
REQUEST = make_request(
    "a", recipe=replace(make_recipe(steps=4), guidance=Guidance(per_step=(3.0, 1.0, 2.0, 1.0))), negative_prompt="dull"
)
CASES = {ranks: plan_cases(ranks) for ranks in LAYOUTS}


@pytest.fixture(scope="module", params=[(2, "cpu"), (4, "cpu"), *GPUS], ids="{0[0]} {0[1]}".format)
def world(request):
    ranks, device = request.param
    if device == "cuda" and torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} CUDA devices")
    attentions = [case for case in ATTENTIONS if case[0] in LAYOUTS[ranks]]
    given = (LAYOUTS[ranks], CASES[ranks] + REFUSED[ranks], attentions, REQUEST)
    return World(ranks, device, run_ranks(run_cases, *given, ranks=ranks, device=device, deadline_s=150))


def test_every_layout_predicts_what_one_rank_predicts(world, one_rank) -> None:
    ranks, results = world.ranks, world.results
    gaps = {}
    for number, (layout, name, dtype, options) in enumerate(CASES[ranks]):
        expected = one_rank(world.device, name, dtype, options)
        assert expected.abs().mean() > 0.1
        for result in results:
            found = result["predictions"][number]
            assert not isinstance(found, Exception), (layout, name, options, found)
            gap = (found - expected).abs().max().item()
            assert gap <= TOLERANCE[world.device, dtype], (layout, name, dtype, options, gap)
            gaps[layout, dtype] = max(gap, gaps.get((layout, dtype), 0.0))
    print(gaps)


def test_guidance_and_replicas_change_no_bit(world, one_rank) -> None:
    ranks, results = world.ranks, world.results
    for number, (layout, name, dtype, options) in enumerate(CASES[ranks]):
        if layout in {"cfg=2", "replica=2"}:
            assert torch.equal(results[0]["predictions"][number], one_rank(world.device, name, dtype, options)), (
                layout,
                options,
            )


def test_ulysses_attention_changes_no_bit_and_ring_the_last_ones(world) -> None:
    ranks, results = world.ranks, world.results
    cases = [case for case in ATTENTIONS if case[0] in LAYOUTS[ranks]]
    assert len(cases) == len(results[0]["attention"]) >= 24
    for result in results:
        for (layout, options), gap in zip(cases, result["attention"], strict=True):
            assert not isinstance(gap, Exception), (layout, options, gap)
            limit = 5e-6 if world.device == "cuda" else 1e-6 if "ring" in layout else 0.0
            assert gap <= limit, (layout, options, gap)


def test_all_ranks_hold_the_same_bits(world) -> None:
    ranks, results = world.ranks, world.results
    for number, case in enumerate(CASES[ranks]):
        for result in results[1:]:
            assert torch.equal(result["predictions"][number], results[0]["predictions"][number]), case


def test_switching_layouts_makes_no_group(world) -> None:
    ranks, results = world.ranks, world.results
    for result in results:
        # the world, and each set of ranks of any axis once: single ranks, all, halves
        assert result["mesh_groups"] == {2: 3, 4: 9}[ranks]
        # of these, those with this rank: the world, itself, all, and two halves of four
        assert result["groups"][0] == {2: 3, 4: 5}[ranks]
        assert len(result["groups"]) > 5 * len(LAYOUTS[ranks])
        assert len(set(result["groups"])) == 1


def test_lanes_are_numbered_row_by_row(world) -> None:
    ranks, results = world.ranks, world.results
    if ranks == 2:
        assert results[1]["lanes"]["replica=2"]["lane"] == (1,)
        assert results[1]["lanes"]["cfg=2"]["cfg"] == ((0, 1), 1)
        return
    lane = results[3]["lanes"]["ring=2,ulysses=2"]
    assert lane["ulysses"] == ((2, 3), 1)
    assert lane["ring"] == ((1, 3), 1)
    assert lane["sequence"] == ((0, 1, 2, 3), 3)
    lane = results[2]["lanes"]["cfg=2,ulysses=2"]
    assert lane["cfg"] == ((0, 2), 1)
    assert lane["sequence"] == lane["ulysses"] == ((2, 3), 0)
    lane = results[2]["lanes"]["replica=2,ulysses=2"]
    assert lane["lane"] == (2, 3)
    assert lane["cfg"] == lane["pipe"] == lane["ring"] == ((2,), 0)


def test_each_rank_evaluates_its_branch(world) -> None:
    ranks, results = world.ranks, world.results
    for number, result in enumerate(results):
        for layout, (calls, values) in result["calls"].items():
            ((first, second), index) = result["lanes"][layout]["cfg"]
            own = ("CONDITIONAL", "UNCONDITIONAL")[index]
            assert calls == ([own, own] if index == 0 else [own]), (number, layout)
            conditional, unconditional = 1.0 + 10 * first, 2.0 + 10 * second
            assert values[0] == [[unconditional + 3 * (conditional - unconditional)] * 2]
            assert values[1] == [[conditional] * 2]
        assert ("cfg=2" in result["calls"]) == (ranks == 2)


def test_a_render_with_parallel_guidance_equals_one_rank_bit_for_bit(world) -> None:
    ranks, results = world.ranks, world.results
    if (ranks, world.device) != (2, "cpu"):  # the fake model is one of CPUs
        return
    video, prompts = render_request(REQUEST)
    assert len(set(video)) > 20
    assert prompts == ["prompt a", "dull", "prompt a", "prompt a", "dull", "prompt a"]
    for result, own in zip(results, (["prompt a"] * 4, ["dull"] * 2), strict=True):
        assert result["video"] == (video, own)


def test_what_cannot_be_shared_is_refused_by_every_rank(world) -> None:
    ranks, results = world.ranks, world.results
    wanted = {
        2: [
            (SizeError, "a latent frame of 1 tokens cannot be shared by 2 ranks"),
            (UnsupportedError, "share tokens by ulysses in place of ring"),
        ],
        4: [(UnsupportedError, "3 heads cannot be shared by ulysses=4")],
    }[ranks]
    for result in results:
        for error, (kind, words) in zip(result["predictions"][-len(wanted) :], wanted, strict=True):
            assert isinstance(error, kind)
            assert words in error.message


def test_unknown_layouts_and_closed_meshes_are_named(world) -> None:
    results = world.results
    for result in results:
        assert isinstance(result["unknown"], UnsupportedError)
        assert "was started without layout pipe=" in result["unknown"].message
        for error in result["closed"]:
            assert isinstance(error, EngineError)
            assert "the mesh was closed" in error.message
