"""Forwards over several ranks, recorded on each of them."""

import pytest
import torch

from reelray.workers.parallel.local_ranks import run_ranks
from tests.support.captured_cases import run_captured


@pytest.mark.parametrize("layout", ["ulysses=2", "ring=2"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.multigpu)])
def test_ranks_replay_their_exchanges_and_part_in_peace(device, layout):
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    for found in run_ranks(run_captured, layout, ranks=2, device=device, deadline_s=100):
        for gap, _ in found.values():
            assert gap <= (1e-5 if device == "cpu" else 5e-5)
        assert found["all"][1] == [True]
        assert found["one has no memory"][1] == [False]
