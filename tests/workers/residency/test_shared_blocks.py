"""Ranks that share their weights: each holds its part, all compute the bits of whole ones."""

import pytest
import torch

from reelray.proto.layout import Layout
from reelray.proto.residency import WeightShare
from reelray.workers.parallel.local_ranks import run_ranks
from reelray.workers.parallel.mesh import find_share
from tests.support.residency_cases import LAYOUTS, MODELS, run_shared, save_model

GPUS = [pytest.param((ranks, "cuda"), marks=pytest.mark.multigpu) for ranks in LAYOUTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("transformers")
    for name, _ in MODELS:
        save_model(path, name)
    return path


@pytest.fixture(scope="module", params=[(4, "cpu"), *GPUS], ids="{0[0]} {0[1]}".format)
def world(request, folder):
    ranks, device = request.param
    if device == "cuda" and torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} CUDA devices")
    return ranks, run_ranks(run_shared, folder, ranks=ranks, device=device, deadline_s=120)


def cases(world):
    ranks, results = world
    for text in LAYOUTS[ranks]:
        for name, _ in MODELS:
            yield Layout.parse(text), [result[text, name] for result in results]


def test_shared_weights_predict_the_bits_of_whole_ones(world):
    for layout, results in cases(world):
        # with a cfg axis also where the weight is 1 and only one branch counts: all ranks have to gather
        assert [gap for result in results for gap in result["gaps"]] == [0.0] * len(results) * (
            1 if layout.pipe > 1 else 2
        )


def test_each_rank_holds_its_part_of_every_block(world):
    for layout, results in cases(world):
        sharing = layout.lane // layout.pipe
        for result in results:
            layers = 2 / 5, 3 / 5
            parts = [share / sharing for share in (layers if layout.pipe > 1 else (1.0,))]
            assert any(result["held"] == pytest.approx(part, rel=0.1) for part in parts)
            assert result["slots"] == pytest.approx(2.0, rel=0.1)
            assert result["blocks"] == 0
        assert {(result["share"].index, result["share"].ranks) for result in results} == {
            (index, sharing) for index in range(sharing)
        }


def test_gathers_have_a_communicator_of_their_own(world):
    ranks, results = world
    last = Layout.parse(LAYOUTS[ranks][-1])
    assert {result["groups"] for result in results} == {(last.lane // last.pipe, True)}


def test_a_rank_that_knows_no_other_says_so(world):
    assert all("this rank does not know the others" in result["unknown"] for result in world[1])


@pytest.mark.parametrize(
    ("layout", "shares"),
    [
        ("ulysses=2", [(0, 2), (1, 2)]),
        ("pipe=2", [(0, 1), (0, 1)]),
        ("cfg=2,pipe=2", [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ("replica=2,ring=2", [(0, 2), (1, 2), (0, 2), (1, 2)]),
    ],
)
def test_only_ranks_of_a_lane_with_the_same_layers_share(layout, shares):
    wanted = [WeightShare(index=index, ranks=ranks) for index, ranks in shares]
    assert [find_share(Layout.parse(layout), rank) for rank in range(len(shares))] == wanted
