"""Windows of several requests in one forward, beside each alone."""

from dataclasses import replace

import pytest
import torch

from reelray.workers.memory.page_format import KeyShape
from reelray.workers.memory.workspace import Staging, fill_workspace
from reelray.workers.models.attention_op import View
from reelray.workers.models.captured import CapturedModel
from reelray.workers.models.joint_rows import Row
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.models.stages import WholeModel
from tests.support.captured_cases import Replayer

PROMPTS = ["a red circle", "the green square moves right on a blue background", "a"]
FRAMES, PLACES, HEADS, WIDTH, LAYERS = 2, 6, 2, 16, 2
TOKENS = FRAMES * PLACES
SHAPE = KeyShape(layers=LAYERS, heads=HEADS, width=WIDTH, dtype=torch.float32)


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_view(seed, *, remembered, staging=None):
    past = None
    if remembered:
        keys, values = ([draw(1, remembered, HEADS, WIDTH, seed=seed + 9 * n) for n in (1, 2)] for _ in range(2))
        past = fill_workspace(keys, values, window=TOKENS)
    return View(past=past, recorder=staging)


def make_rows(model, stagings):
    """The first remembers nothing yet, the second leaves what it makes to memory, the third has a longer one."""
    texts = model.encode_text(PROMPTS)
    assert len({text.tokens for text in texts}) == 3
    views = [make_view(1, remembered=0), make_view(2, remembered=18, staging=stagings), make_view(3, remembered=24)]
    return [
        Row(
            latents_1CTHW=draw(1, 16, FRAMES, 4, 6, seed=number),
            timesteps=(900.0 - 100 * number, 700.0),
            text=text,
            positions=(3 * number, 3 * number + 1),
            view=view,
        )
        for number, (text, view) in enumerate(zip(texts, views, strict=True))
    ]


def new_staging():
    return Staging(SHAPE, window=TOKENS, device=torch.device("cpu"))


def alone(model, row):
    times, positions = torch.tensor([row.timesteps]), torch.tensor([row.positions])
    return model.denoise(row.latents_1CTHW, times, [row.text], positions_BT=positions, view=row.view)


@pytest.mark.parametrize("in_step", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_rows_are_what_each_is_alone(model, monkeypatch, in_step, recorded):
    kept = new_staging()
    rows = make_rows(model, kept)
    wanted = [alone(model, row) for row in rows]
    left = kept.tokens(slice(0, TOKENS)).clone()
    assert left.abs().amin((0, 1, 3, 4)).min() > 0
    replayer = Replayer()
    if recorded:
        monkeypatch.setattr(model, "_stages", CapturedModel(replayer))
    for _ in range(3 if recorded else 1):
        kept.tokens(slice(0, TOKENS)).zero_()
        found = model.denoise_rows(rows, in_step=in_step)
        for one, other in zip(found, wanted, strict=True):
            assert torch.equal(one, other) if in_step else (one - other).abs().max() <= 1e-5
        again = kept.tokens(slice(0, TOKENS))
        assert torch.equal(again, left) if in_step else (again - left).abs().max() <= 1e-5
    assert (replayer.recorded, replayer.replayed) == ((1, 2) if recorded else (0, 0))


@pytest.mark.parametrize("in_step", [False, True])
@pytest.mark.parametrize("part", ["text", "positions", "timesteps", "view", "latents_1CTHW"])
def test_what_belongs_to_a_row_matters_to_it_alone(model, in_step, part):
    """Else the test above would pass with rows mixed up."""
    first, second, third = make_rows(model, new_staging())
    whole = model.denoise_rows([first, second, third], in_step=in_step)
    swapped = [
        first,
        replace(second, **{part: getattr(third, part)}),
        replace(third, **{part: getattr(second, part)}),
    ]
    found = model.denoise_rows(swapped, in_step=in_step)
    assert (found[0] - whole[0]).abs().max() <= 1e-5
    for row in (1, 2):
        assert (found[row] - whole[row]).abs().max() > 1e-3


def test_a_recording_of_some_rows_does_not_serve_others(model, monkeypatch):
    rows = make_rows(model, new_staging())
    replayer = Replayer()
    monkeypatch.setattr(model, "_stages", CapturedModel(replayer))
    for _ in range(2):
        for together in (rows, rows[:2], rows[::-1]):
            for in_step in (False, True):
                model.denoise_rows(together, in_step=in_step)
    assert replayer.recorded == 6
    for together in (rows, rows[::-1]):
        found = model.denoise_rows(together)
        for row, one in zip(together, found, strict=True):
            assert (one - alone(model, row)).abs().max() <= 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("recorded", [False, True])
def test_rows_in_step_are_the_bits_of_each_alone_on_a_gpu(tiny_t2v, monkeypatch, recorded):
    """In half precision, where products of other sizes round in another way; three times, by recordings at last."""
    model = open_checkpoint(tiny_t2v, device="cuda")
    if not recorded:
        monkeypatch.setattr(model, "_stages", WholeModel())
    texts = model.encode_text(PROMPTS)
    rows = [
        Row(
            latents_1CTHW=draw(1, 16, FRAMES, 4, 6, seed=number).cuda(),
            timesteps=(900.0 - 100 * number, 700.0),
            text=text,
            positions=(3 * number, 3 * number + 1),
        )
        for number, text in enumerate(texts)
    ]
    wanted = [model.denoise_rows([row])[0] for row in rows]
    for _ in range(3):
        assert all(map(torch.equal, model.denoise_rows(rows, in_step=True), wanted))
        for one, other in zip(model.denoise_rows(rows), wanted, strict=True):
            assert (one - other).abs().max() <= 0.03 * other.abs().max()
