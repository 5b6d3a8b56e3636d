"""Streams that change lanes while a rank has no memory for their pages: nobody waits for it, and nothing is lost."""

from dataclasses import replace

import numpy as np
import pytest

from reelray.workers.models.registry import open_checkpoint
from reelray.workers.parallel.local_ranks import run_ranks
from tests.support.live_cases import live_request, run_whole
from tests.support.move_cases import APART, TOGETHER, serve_short_of_memory

LONG, SHORT = (replace(live_request("keep", name, latent_frames=n), live=False) for name, n in (("a", 16), ("b", 4)))


@pytest.mark.parametrize(
    ("script", "broken", "ways"),
    [
        ({0: [LONG], 6: [SHORT]}, 0, [APART, TOGETHER]),  # the other rank only gives
        ({0: [LONG, SHORT]}, 0, [TOGETHER, APART]),
        ({0: [LONG, SHORT]}, 1, [TOGETHER, APART]),  # the first taker has room
    ],
    ids=["the only taker", "the first taker", "the second taker"],
)
def test_a_rank_without_memory_for_what_moves_keeps_nobody_waiting(tiny_t2v, script, broken, ways):
    """The stream goes back to ranks that have room for it, which make its memory anew."""
    model = open_checkpoint(tiny_t2v, device="cpu")
    served = run_ranks(serve_short_of_memory, tiny_t2v, script, broken, ranks=2, deadline_s=60)
    assert served[0] == served[1]
    assert not served[0].failures
    number, name, layout = served[0].moves[0]
    assert (name, layout) == ("a", ways[0])
    assert served[0].waited == [(number, "a")]
    assert [way for _, name, way in served[0].moves if name == "a"][:2] == ways
    for request in (LONG, SHORT):
        one, other = (
            np.frombuffer(v, np.uint8).astype(int)
            for v in (served[0].videos[request.request_id], run_whole(model, request))
        )
        assert one.shape == other.shape
        assert abs(one - other).max() <= 1
        assert (one != other).mean() <= 0.001
