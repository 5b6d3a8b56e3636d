"""Ranks that share the heads of a memory, or the tokens over it, predict what one rank predicts."""

from functools import cache

import pytest
import torch

from reelray.workers.parallel.local_ranks import run_ranks
from tests.support.memory_cases import RULES, roll, roll_on_ranks
from tests.support.parallel_cases import make_model

WORLDS = [
    pytest.param(2, "cpu"),
    pytest.param(4, "cpu"),
    *(pytest.param(ranks, "cuda", marks=pytest.mark.multigpu) for ranks in (2, 4)),
]


@pytest.mark.parametrize(("ranks", "device"), WORLDS)
def test_a_rollout_on_several_ranks_equals_one_rank(ranks, device):
    if device == "cuda" and torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} CUDA devices")
    layouts = [f"ulysses={ranks}", f"ring={ranks}", *(["ring=2,ulysses=2"] if ranks == 4 else [])]
    alone = cache(lambda name, number: roll(make_model(name, torch.float32, device), RULES[number]))
    results = run_ranks(roll_on_ranks, layouts, ranks=ranks, device=device, deadline_s=120)
    for result in results:
        assert len(result) == (12 if ranks == 2 else 15)
        for (layout, name, number), found in result.items():
            wanted = alone(name, number)
            assert wanted.abs().mean() > 0.1
            gap = (found - wanted).abs().max().item()
            assert gap <= (1e-5 if device == "cpu" else 5e-5), (layout, name, number, gap)
