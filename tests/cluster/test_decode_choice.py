"""Whether ranks of their own decode: the plan's choice for one video, what was asked for, and what cannot be."""

from dataclasses import replace
from fractions import Fraction

import pytest

from reelray.cluster.decode_choice import choose_decode, read_decode_ranks
from reelray.cluster.layout_choice import choose_layout
from reelray.cluster.render import RenderJob
from reelray.cluster.residency_choice import read_wish
from reelray.proto.chunking import Chunking
from reelray.proto.errors import InputError
from reelray.proto.recipe import Guidance, Schedule
from reelray.scheduler.plan.choice import DEDICATION_GAIN, choose, rank_layouts
from reelray.workers.models.registry import describe_preset
from reelray.workers.recipes.presets import load_presets
from tests.support.fake_engine import fake_entry
from tests.support.planning import make_machine, make_stream, table
from tests.support.requests import make_request

PRESET = next(preset for preset in load_presets() if preset.recipe.name == "wan2.1-t2v-1.3b")
FACTS, SIZES = describe_preset(PRESET)
STREAM = replace(
    PRESET.recipe,
    chunking=Chunking(latent_frames=3),
    guidance=Guidance(scale=1.0),
    schedule=Schedule(timesteps=(1000.0, 750.0, 500.0, 250.0, 125.0), solver="euler"),
)


@pytest.fixture
def choose_for(monkeypatch):
    monkeypatch.setattr("reelray.cluster.layout_choice.measure_checkpoint", lambda _: SIZES)
    monkeypatch.setattr("reelray.cluster.layout_choice.memory_bytes", lambda: 600 * 2**30)

    def choose_for(recipe, **wish):
        weights, (width, height) = wish.pop("weights", "auto"), wish.pop("size", (832, 480))
        request = make_request("a", recipe=recipe, latent_frames=21, width=width, height=height)
        job = RenderJob(request=request, model=fake_entry(recipe=recipe, facts=FACTS), fps=Fraction(16))
        wish = {"gpus": None, "layout": None} | wish
        return choose_layout(job, "cpu", **wish, wish=read_wish(weights, "auto"))

    return choose_for


def test_a_stream_of_few_steps_takes_decode_ranks_and_a_whole_clip_of_many_does_not(choose_for):
    whole, stream = (choose_for(recipe, gpus=8, decode_ranks="auto") for recipe in (PRESET.recipe, STREAM))
    assert (whole.decode_ranks, whole.layout.ranks) == (0, 8)
    assert stream.decode_ranks == 2
    assert stream.layout.ranks <= 6
    assert "decode on the ranks that denoise: by the plan 7" in whole.reason
    assert "decode on 2 ranks of their own: by the plan " in stream.reason
    assert " s on the ranks that denoise, as decode is " in stream.reason


def test_all_ranks_count(choose_for):
    asked = choose_for(STREAM, gpus=3, decode_ranks=1)
    assert asked.decode_ranks == 1
    assert asked.layout.ranks <= 2
    assert "decode on a rank of its own, as asked" in asked.reason
    assert choose_for(STREAM, gpus=4, decode_ranks=0).decode_ranks == 0
    beside = choose_for(STREAM, layout="ulysses=2", decode_ranks="1")
    assert (beside.layout.ranks, beside.decode_ranks) == (2, 1)
    full = choose_for(STREAM, gpus=2, layout="ulysses=2")
    assert (full.layout.ranks, full.decode_ranks) == (2, 0)  # nobody is left who could only decode
    room = choose_for(STREAM, gpus=4, layout="ulysses=2")
    assert (room.layout.ranks, room.decode_ranks) == (2, 2)  # decode is as slow as what two ranks denoise


def test_decode_ranks_are_lent_where_the_plan_says_that_it_gains(choose_for):
    clip = choose_for(PRESET.recipe, gpus=2, decode_ranks=1)
    assert clip.lending.layout.ranks == 2
    assert clip.lending.lent_step_s < 0.6 * clip.lending.apart_step_s  # the two branches of guidance side by side
    assert 0 < clip.lending.switch_s < clip.lending.apart_step_s
    assert "all denoise as cfg=2 until there is something to decode" in clip.reason
    tiny = choose_for(STREAM, gpus=2, decode_ranks=1, size=(64, 64))
    assert tiny.lending is None  # launches take longer than what is shared
    assert "until there is" not in tiny.reason
    assert choose_for(PRESET.recipe, gpus=2, decode_ranks=0).lending is None


def test_one_rank_has_no_choice(choose_for):
    assert choose_for(STREAM).decode_ranks == choose_for(STREAM, decode_ranks=0).decode_ranks == 0


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (
            {"decode_ranks": 1, "gpus": 1},
            "decode_ranks is 1 of 1 ranks in all, and somebody must denoise too; .*gpus 2",
        ),
        ({"decode_ranks": 4, "gpus": 4}, "take --gpus 5"),
        ({"decode_ranks": 1, "gpus": 2, "layout": "ulysses=2"}, "layout ulysses=2 needs 2 that denoise; .*gpus 3"),
        ({"decode_ranks": -1, "gpus": 2}, "decode_ranks is -1; it must be 'auto' or a whole number of 0 to 63"),
        ({"decode_ranks": "some", "gpus": 2}, "decode_ranks is 'some'"),
        ({"decode_ranks": True, "gpus": 2}, "decode_ranks is True"),
        ({"decode_ranks": 1, "gpus": 2, "weights": "sharded"}, "weights cannot be sharded"),
    ],
)
def test_what_cannot_be_is_refused(choose_for, wish, words):
    with pytest.raises(InputError, match=words):
        choose_for(STREAM, **wish)


def test_decode_ranks_must_be_worth_it():
    rows = {
        count: choose(rank_layouts(make_stream(), make_machine(4), table(), decode_ranks=count)) for count in (0, 1)
    }
    shared_s = rows[0].clip_s
    just = replace(rows[1], clip_s=shared_s / (1 + DEDICATION_GAIN) * 1.001)
    assert choose_decode({0: rows[0], 1: just}) == 0
    assert choose_decode({0: rows[0], 1: replace(just, clip_s=just.clip_s * 0.99)}) == 1
    full = replace(rows[0], peak_bytes=rows[0].memory_bytes + 1.0)
    assert choose_decode({0: full, 1: rows[1]}) == 1  # the only one that fits
    assert choose_decode({0: full}) == 0


def test_words_are_read():
    assert read_decode_ranks(None) is read_decode_ranks("auto") is None
    assert read_decode_ranks("3") == read_decode_ranks(3) == 3
