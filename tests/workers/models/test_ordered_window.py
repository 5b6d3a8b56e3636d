"""A window whose core wants its tokens in another order predicts what it would predict in place."""

import torch

from reelray.workers.models.attention_op import View
from reelray.workers.models.sharding import WholeWindow
from tests.support.ordered_core import Thirds, ThirdsInPlace
from tests.support.parallel_cases import make_inputs, make_model

TOKENS = 3 * 5 * 7


@torch.inference_mode()
def predict(name, **how):
    model = make_model(name, torch.float32, "cpu")
    latents, timestep, texts, image = make_inputs(model, per_frame=False, batch=2)
    return model(latents, timestep, texts[0], image=image, **how)


def test_an_ordered_window_predicts_what_it_would_in_place():
    for name in ("t2v", "i2v"):
        core = Thirds(TOKENS)
        shard = WholeWindow().shard(3, 35, View(core=core))
        found = predict(name, shard=shard)
        expected = predict(name, attention=ThirdsInPlace(TOKENS))
        assert (found - expected).abs().max() <= 1e-5
        assert (found - predict(name)).abs().max() > 1e-2
        assert core.heads == {range(4 if name == "t2v" else 3)}


def test_it_is_the_window_of_the_same_ranks_and_is_not_recorded():
    whole, view = WholeWindow(), View(core=Thirds(TOKENS))
    shard = whole.shard(3, 35, view)
    assert shard is whole.shard(3, 35, view)
    assert shard.peers is whole.peers
    assert not shard.attention.repeats
    assert whole.shard(3, 35, View()).attention.repeats
