"""The clean latents that a rank makes of a stream."""

import torch

from reelray.proto.step_plan import StepPlan
from reelray.workers.engine.rank import Rank
from tests.support.pages_left import assert_nothing_stays
from tests.support.render_on import render_on
from tests.support.watched_model import Watched


def stream_watched(model, request):
    """Clean latents of the video, and the forwards that it took; nothing of it stays behind."""
    watched = Watched(model)
    rank = Rank(watched)
    render_on(rank, request)
    rank.execute(StepPlan(sequence=rank._sequence, generation=0, releases=(request.request_id,)))
    assert_nothing_stays(rank)
    return torch.cat(watched.latents, 2), watched.forwards
