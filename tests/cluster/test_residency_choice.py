"""Where a render's weights are: asked for, chosen by the plan, or refused with what would help."""

from dataclasses import replace
from fractions import Fraction

import pytest

from reelray.cluster import memory_check, residency_choice
from reelray.cluster.layout_choice import choose_layout
from reelray.cluster.machine import Gpu
from reelray.cluster.memory_check import check_memory
from reelray.cluster.render import RenderJob
from reelray.cluster.residency_choice import read_wish
from reelray.proto.errors import InputError, ResourceError
from reelray.proto.layout import Layout
from reelray.proto.residency import Blocks, Encoder, Residency
from reelray.workers.models.registry import describe_preset
from reelray.workers.recipes.presets import load_presets
from tests.support.fake_engine import fake_entry
from tests.support.requests import make_request

GIB = 2**30
OFFLOADED = Residency(blocks=Blocks.OFFLOADED)
PRESET = next(preset for preset in load_presets() if preset.recipe.name == "wan2.1-t2v-14b")
FACTS, SIZES = describe_preset(PRESET)


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setattr("reelray.cluster.layout_choice.measure_checkpoint", lambda _: SIZES)
    monkeypatch.setattr(residency_choice, "memory_bytes", lambda: 200 * GIB)
    request = make_request("a", recipe=PRESET.recipe, latent_frames=21, width=832, height=480)
    model = replace(fake_entry(recipe=PRESET.recipe, facts=FACTS), weights_bytes=40 * GIB)
    return RenderJob(request=request, model=model, fps=Fraction(16))


@pytest.fixture
def gpus(monkeypatch):
    def has(count, gib):
        found = [Gpu(name="card", memory_bytes=gib * GIB, capability="8.9", driver="1")] * count
        monkeypatch.setattr("reelray.cluster.gpu_count.list_gpus", lambda: found)
        monkeypatch.setattr(memory_check, "list_gpus", lambda: found)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    has(0, 0)
    return has


def choose(job, *, gpus=None, layout=None, weights="auto", encoder="auto", device="auto"):
    return choose_layout(job, device, gpus=gpus, layout=layout, wish=read_wish(weights, encoder))


def test_a_large_card_keeps_everything(job, gpus):
    gpus(1, 139)
    chosen = choose(job)
    assert (chosen.layout, chosen.residency, chosen.reason) == (Layout(), Residency(), None)


@pytest.mark.parametrize(
    ("gib", "wanted"),
    [
        (44, Residency(encoder=Encoder.RELEASED)),
        (24, OFFLOADED),
        (16, Residency(blocks=Blocks.OFFLOADED, encoder=Encoder.RELEASED)),
    ],
    ids=str,
)
def test_a_smaller_card_gets_what_fits_and_is_told_why(job, gpus, gib, wanted):
    gpus(1, gib)
    chosen = choose(job)
    assert chosen.residency == wanted
    assert chosen.reason.startswith(f"weights {wanted}: all resident, a GPU would need ")
    assert chosen.reason.endswith(f" of {gib}.0 GiB")


def test_several_cards_take_the_layout_and_the_residency_that_are_fastest_together(job, gpus):
    gpus(4, 24)
    chosen = choose(job, gpus=4)
    assert chosen.layout.ranks == 4
    assert chosen.residency.blocks in {Blocks.SHARDED, Blocks.OFFLOADED}
    assert f"weights {chosen.residency}: all resident" in chosen.reason
    assert "by the plan none fits" not in chosen.reason
    asked = choose(job, gpus=4, weights="sharded", encoder="released")
    assert asked.residency == Residency(blocks=Blocks.SHARDED, encoder=Encoder.RELEASED)
    assert "all resident" not in asked.reason
    same = choose(job, layout="ulysses=4")
    assert same.residency.blocks is not Blocks.RESIDENT
    assert "as asked; weights" in same.reason


def test_what_is_asked_for_is_done_without_asking_the_driver(job, gpus, monkeypatch):
    gpus(1, 139)
    monkeypatch.setattr("reelray.cluster.gpu_count.list_gpus", lambda: 1 / 0)
    assert choose(job, weights="offloaded", encoder="resident").residency == OFFLOADED
    small = replace(job, model=replace(job.model, weights_bytes=10**9))
    assert choose(small).residency == Residency()
    assert choose(small, weights="offloaded").residency == OFFLOADED


@pytest.mark.usefixtures("gpus")
def test_on_a_cpu_weights_stay_unless_asked(job):
    assert choose(job).residency == Residency()
    assert choose(job, gpus=2, device="cpu").residency == Residency()
    assert choose(job, gpus=2, device="cpu", weights="sharded").residency == Residency(blocks=Blocks.SHARDED)
    assert choose(job, device="cpu", weights="offloaded", encoder="released").residency == Residency(
        blocks=Blocks.OFFLOADED, encoder=Encoder.RELEASED
    )


@pytest.mark.parametrize("where", [{}, {"gpus": 1}, {"layout": "pipe=2", "device": "cpu"}], ids=str)
def test_nobody_to_share_with(job, gpus, where):
    gpus(2, 139)
    with pytest.raises(InputError, match=r"weights cannot be sharded: .*--weights offloaded"):
        choose(job, weights="sharded", **where)


def test_a_host_too_small_for_the_copies_of_all_ranks(job, gpus, monkeypatch):
    gpus(4, 24)
    monkeypatch.setattr(residency_choice, "memory_bytes", lambda: 64 * GIB)
    with pytest.raises(ResourceError, match=r"weights offloaded need 114.* GB of host memory on 4 ranks"):
        choose(job, layout="ulysses=4", weights="offloaded", encoder="resident")
    assert choose(job, gpus=1, weights="offloaded").residency.blocks is Blocks.OFFLOADED


@pytest.mark.parametrize(("weights", "encoder"), [("somewhere", "auto"), ("auto", "offloaded")])
def test_unknown_words_are_named(weights, encoder):
    with pytest.raises(InputError, match="it must be one of auto, resident"):
        read_wish(weights, encoder)


def test_the_memory_check_says_what_would_fit(job, gpus):
    gpus(4, 24)

    def check(blocks, device="auto"):
        check_memory(job.request, job.model, device=device, blocks=blocks)

    check(None)
    check(Blocks.OFFLOADED)
    check(Blocks.SHARDED)
    with pytest.raises(ResourceError) as refused:
        check(Blocks.RESIDENT)
    assert "--weights offloaded needs 3." in refused.value.message
    assert "--weights sharded fits on 2 GPUs (--gpus 2)" in refused.value.message
    gpus(1, 24)
    with pytest.raises(ResourceError) as refused:
        check(Blocks.RESIDENT)
    assert "sharded" not in refused.value.message
    gpus(1, 2)
    with pytest.raises(ResourceError, match=r"at least 3\.\d GB .*ask for fewer frames or a smaller size"):
        check(None)
