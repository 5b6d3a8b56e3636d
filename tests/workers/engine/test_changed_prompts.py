"""Prompts that change while a stream runs: what is remembered by the old one, and what becomes of it."""

from dataclasses import replace

import pytest
import torch

from reelray.proto.step_plan import StepPlan
from reelray.workers.engine.rank import Rank
from reelray.workers.models.registry import open_checkpoint
from tests.support.interrupted import interrupted
from tests.support.pages_left import assert_nothing_stays
from tests.support.plain_stream import stream_plainly
from tests.support.render_on import render_on
from tests.support.stream_cases import SWITCHED, switched_request
from tests.support.watched_model import Watched


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


@pytest.mark.parametrize("case", SWITCHED)
def test_a_change_of_the_prompt_is_what_the_plain_loop_makes_of_it(plain, case):
    watched, request = Watched(plain), switched_request(case)
    rank = Rank(watched)
    render_on(rank, request)
    _, rule, recached = SWITCHED[case]
    wanted = stream_plainly(plain, request, rule, recached=recached)
    found = torch.cat(watched.latents, 2)
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    unchanged = Watched(plain)
    render_on(Rank(unchanged), replace(request, changes=()))
    gap = (torch.cat(unchanged.latents, 2) - found).abs().amax((0, 1, 3, 4))
    assert (gap[:8] == 0).all()
    assert (gap[8:] > 1e-3).all()
    rank.execute(StepPlan(sequence=rank._sequence, generation=0, releases=(request.request_id,)))
    assert_nothing_stays(rank)


@pytest.mark.parametrize("case", SWITCHED)
def test_a_changed_stream_goes_on_from_any_commit_bit_by_bit(plain, case):
    request = switched_request(case)
    whole = render_on(Rank(plain), request)
    for steps in (9, 12, 13, 14, 15):
        assert interrupted(plain, request, after=steps) == whole, steps
