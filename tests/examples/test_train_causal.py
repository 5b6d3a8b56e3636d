"""Both stages of the causal training on a stand-in for the VAE, and the folders that come of them."""

import copy
import json
import math
import time
from concurrent.futures import Future
from dataclasses import replace

import pytest
import torch

from examples.train_sprites import causal_session, export_causal, train_causal, window_pool
from examples.train_sprites.causal_session import CausalSession, strip_compiled
from examples.train_sprites.causal_settings import RULE, STREAMING, CausalSettings
from examples.train_sprites.chunk_attention import Bank, Seat, check_rule
from examples.train_sprites.chunk_forward import Rows, evaluate_seats
from examples.train_sprites.export import load_average
from examples.train_sprites.few_steps import (
    DIAGONAL,
    EVERY_CHUNK,
    LEVELS,
    PATH,
    Teacher,
    make_step_lesson,
    roll_out,
    sigma_of,
)
from examples.train_sprites.ranks import Ranks
from examples.train_sprites.sprites_model import WORD_SLOTS, SpritesModel
from examples.train_sprites.tokenizer import build_tokenizer, list_words
from examples.train_sprites.train_causal import ADAPT, FEW, Plan, train
from examples.train_sprites.window_loss import (
    disturb,
    draw_levels,
    make_lesson,
    predict,
    recall_own,
    weigh_chunks,
    weighted_error,
)
from examples.train_sprites.window_pool import WINDOW_CHUNKS, Windows
from reelray.proto.recipe import Schedule, Solver
from reelray.quality.sprites.detector import Verdict
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.umt5 import Umt5Config
from reelray.workers.samplers.api import build_sampler
from tests.examples.test_train_dit import FakeVae


def tiny_model(vocabulary):
    """Two layers: what is remembered of the first one does not know the prompt yet."""
    text = Umt5Config(vocab_size=vocabulary, d_model=16, d_kv=8, num_heads=2, d_ff=24, num_layers=1)
    return SpritesModel(
        text, WanConfig(num_attention_heads=1, attention_head_dim=16, text_dim=16, ffn_dim=32, num_layers=2)
    )


def draw_quickly(scenes, frames, device):
    """A grey for every frame: drawing takes longer than all else here."""
    grey = torch.rand(len(scenes), 3, len(frames), 1, 1, device=device)
    return grey.expand(-1, -1, -1, 128, 192)


@pytest.fixture
def small_world(monkeypatch):
    monkeypatch.setattr(window_pool, "draw_batch", draw_quickly)
    monkeypatch.setattr(causal_session, "load_vae", lambda _folder, _device: FakeVae())
    monkeypatch.setattr(SpritesModel, "shipped", classmethod(lambda _cls, vocabulary: tiny_model(vocabulary)))
    monkeypatch.setattr(CausalSession, "BATCH", 2)


def lively_model(seed=0):
    """A tiny model whose prediction is not zero."""
    torch.manual_seed(seed)
    model = tiny_model(len(build_tokenizer(list_words())))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def open_session(out, model, **changes):
    values = {"clips": 2, "pool": 4, "first_clips": 4, "renew_every": 3, "trial_captions": 0, "log_every": 1}
    return CausalSession(CausalSettings(**{**values, "compile_model": False, **changes}), out, model, out, Ranks())


def random_windows(clips=2, switch=(2, WINDOW_CHUNKS)):
    generator = torch.Generator().manual_seed(4)
    return Windows(
        latents=torch.randn(clips, WINDOW_CHUNKS, 16, 3, 4, 4, generator=generator),
        ids=torch.randint(3, 70, (clips, 2, WORD_SLOTS), generator=generator),
        switch=torch.tensor(switch),
        is_valid=torch.ones(clips, WINDOW_CHUNKS, dtype=torch.bool),
    )


@pytest.mark.usefixtures("small_world")
def test_both_stages_train_and_leave_states_and_folders(tmp_path):
    model = lively_model()
    before = copy.deepcopy(model)
    session = open_session(tmp_path, model)
    plan = Plan(adapt=replace(ADAPT, steps=6), few=replace(FEW, steps=6), stop_after=1e9, started=time.monotonic())
    train(session, plan)
    for stage, steps in (("adapt", 6), ("few", 6)):
        rows = [json.loads(line) for line in (tmp_path / stage / "log.jsonl").read_text().splitlines()]
        assert rows[-1]["event"] == "end"
        assert rows[-1]["step"] == steps
        assert all(math.isfinite(value) for row in rows for value in row.get("errors", ()))
        state, _ = load_average(tmp_path / stage)
        assert not torch.equal(state.transformer.proj_out.weight, before.transformer.proj_out.weight)
        for name, weight in state.text_encoder.named_parameters():
            assert torch.equal(weight, before.text_encoder.get_parameter(name).half().float()), name
    adapted, few = (load_average(tmp_path / stage)[0] for stage in ("adapt", "few"))
    assert not torch.equal(adapted.transformer.proj_out.weight, few.transformer.proj_out.weight)


@pytest.mark.usefixtures("small_world")
def test_a_stage_ends_when_the_time_is_over_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(train_causal, "SYNC_EVERY", 3)
    session = open_session(tmp_path, lively_model())
    plan = Plan(adapt=None, few=replace(FEW, budget_s=1e6), stop_after=0.0, started=time.monotonic())
    train(session, plan)
    assert session.trainer.step == 3
    assert (tmp_path / "few" / "state.json").exists()


def test_compiled_regions_are_not_copied():
    """A copy of them would compute with the weights of the original."""
    model = lively_model()
    model.transformer.compile_blocks(backend="eager")
    strip_compiled(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in model.transformer.blocks.parameters():
            weight.zero_()
    latents, ids = torch.randn(1, 16, 3, 4, 4), torch.full((1, WORD_SLOTS), 5)
    with torch.no_grad():
        got, zero = (each(each.embed(ids), latents, torch.tensor([500.0])) for each in (other, model))
    assert (got - zero).abs().max() > 1e-3


def test_the_loss_asks_every_chunk_over_its_own_past_and_prompt():
    """Against chunks evaluated one after the other, each with the prompt that holds for it."""
    model, windows = lively_model(), random_windows()
    lesson = make_lesson(windows, windows.latents[:, :-1], draw_levels(2, WINDOW_CHUNKS, torch.tensor([1.0]), "cpu"))
    with torch.no_grad():
        got = predict(model, STREAMING, windows.ids, windows.switch, lesson)
        for clip in range(2):
            texts = [model.read(model.embed(windows.ids[clip, number][None])) for number in range(2)]
            for chunk in (0, 2, 3, 6):
                told = [texts[int(place >= windows.switch[clip])] for place in range(chunk + 1)]
                bank = Bank()
                for place in range(chunk):
                    rows = Rows(latents=lesson.clean[clip, place][None], timesteps=torch.zeros(1), text=told[place])
                    evaluate_seats(model.transformer, STREAMING, [Seat(place, clean=True)], rows, bank=bank)
                rows = Rows(
                    latents=lesson.noisy[clip, chunk][None],
                    timesteps=lesson.timesteps[clip, chunk][None],
                    text=told[chunk],
                )
                wanted = evaluate_seats(model.transformer, STREAMING, [Seat(chunk)], rows, bank=bank)[0]
                torch.testing.assert_close(got[clip, chunk], wanted, atol=1e-5, rtol=0)


def test_a_perfect_prediction_has_no_loss_and_an_invalid_chunk_counts_nothing():
    windows = random_windows()
    windows.is_valid[0, 1] = False
    lesson = make_lesson(windows, windows.latents[:, :-1], torch.full((2, WINDOW_CHUNKS), 0.5))
    assert weighted_error(lesson.flow, lesson)[0] == 0
    wrong = lesson.flow.clone()
    wrong[0, 1] += 5.0
    assert weighted_error(wrong, lesson)[0] == 0
    wrong[0, 2] += 1.0
    loss, error = weighted_error(wrong, lesson)
    assert loss > 0
    torch.testing.assert_close(error[0, 2], torch.tensor(1.0))
    clean = lesson.noisy - 0.5 * lesson.flow
    torch.testing.assert_close(clean, windows.latents)


def test_what_the_model_has_made_is_remembered_unless_noise_hid_what_is_new():
    windows = random_windows()
    windows.is_valid[1, 3] = False
    sigma = torch.full((2, WINDOW_CHUNKS), 0.9)
    sigma[:, 4] = 0.2
    clean = disturb(windows.latents[:, :-1])
    lesson = make_lesson(windows, clean, sigma)
    own = recall_own(windows, clean, lesson, lesson.flow + 1)
    made = windows.latents[:, :-1] - sigma[:, :-1, None, None, None, None]
    for clip, kept in ((0, {0, 2}), (1, {0, 3})):
        for chunk in range(WINDOW_CHUNKS - 1):
            wanted = clean if chunk in kept else made
            torch.testing.assert_close(own[clip, chunk], wanted[clip, chunk], atol=1e-5, rtol=1e-5)


def test_levels_hold_the_served_ones_and_fill_the_rest():
    served = torch.tensor([1.0, 0.25])
    sigma = draw_levels(100, 7, served, torch.device("cpu"))
    share = (sigma[..., None] == served).any(-1).float().mean()
    assert 0.28 < share < 0.42
    assert (sigma > 0).all()
    assert (sigma <= 1).all()


def test_a_chunk_with_a_past_counts_more_where_a_fresh_one_is_chance():
    sigma = torch.tensor([[0.98, 0.98, 0.3]])
    weight = weigh_chunks(sigma, torch.tensor([[True, False, False]]))[0]
    assert weight[1] > 1.2 * weight[0]
    at_ease = weigh_chunks(torch.tensor([[0.5, 0.5]]), torch.tensor([[True, False]]))[0]
    assert at_ease[0] > 2 * at_ease[1]
    torch.testing.assert_close(weight[1], weigh_chunks(torch.tensor([[0.7]]), torch.tensor([[False]]))[0, 0])


def test_the_served_levels_and_memory_can_be_trained():
    check_rule(RULE, STREAMING.size)
    assert set(DIAGONAL.timesteps).union(*DIAGONAL.first_chunks) <= set(LEVELS)
    assert [DIAGONAL.of_chunk(chunk).length for chunk in range(5)] == [4, 3, 2, 2, 2]
    assert set(LEVELS) <= set(PATH)
    for level, sigma in zip(LEVELS, build_sampler(EVERY_CHUNK).sigmas[:-1], strict=True):
        assert sigma_of(level) == sigma


def test_the_teacher_follows_the_plain_path_of_each_stream():
    """Against a loop over one stream with two branches, where the chunk is new, and with one where it is not."""
    model = lively_model()
    ids = torch.randint(3, 70, (2, 2, WORD_SLOTS), generator=torch.Generator().manual_seed(1))
    empty = torch.zeros(1, WORD_SLOTS, dtype=torch.long)
    empty[0, 0] = 1
    torch.manual_seed(5)
    rolled = roll_out(model, STREAMING, DIAGONAL, ids, chunks=4, switch=2)
    teacher, level = Teacher(model, STREAMING, empty, guidance=2.0), 733.0
    ends = teacher.follow(rolled, level, teacher.remember(rolled))
    clip = 1
    prompts = [model.read(model.embed(ids[clip, number][None])) for number in range(2)]
    bare = model.read(model.embed(empty))
    with torch.no_grad():
        for chunk in (0, 2, 3):
            bank = Bank()
            for place in range(chunk):
                rows = Rows(latents=rolled.clean[clip, place][None], timesteps=torch.zeros(1), text=prompts[place >= 2])
                evaluate_seats(model.transformer, STREAMING, [Seat(place, clean=True)], rows, bank=bank)
            path = tuple(timestep for timestep in PATH if timestep <= level)
            sampler, latents = build_sampler(Schedule(solver=Solver.UNIPC, timesteps=path)), rolled.seen[level]
            latents = latents[clip, chunk][None]
            for step, timestep in enumerate(path):

                def flow_of(text, latents=latents, timestep=timestep, bank=bank, chunk=chunk):
                    rows = Rows(latents=latents, timesteps=torch.tensor([timestep]), text=text)
                    return evaluate_seats(model.transformer, STREAMING, [Seat(chunk)], rows, bank=bank)

                flow = flow_of(prompts[chunk >= 2])
                if chunk in {0, 2}:
                    other = flow_of(bare)
                    flow = other + 2.0 * (flow - other)
                latents = sampler.step(flow, latents, step)
            torch.testing.assert_close(ends[clip, chunk], latents[0], atol=1e-4, rtol=1e-4)


def test_a_step_lesson_leads_from_the_seen_to_the_ends():
    model = lively_model()
    ids = torch.full((1, 2, WORD_SLOTS), 5)
    rolled = roll_out(model, STREAMING, EVERY_CHUNK, ids, chunks=3, switch=9)
    ends = torch.randn_like(rolled.clean)
    for level in LEVELS:
        lesson = make_step_lesson(rolled, level, ends)
        sampler = build_sampler(Schedule(solver=Solver.X0_RENOISE, timesteps=(level,), shift=EVERY_CHUNK.shift))
        assert lesson.timesteps.unique().tolist() == list(sampler.timesteps)
        torch.testing.assert_close(sampler.step(lesson.flow, lesson.noisy, 0), ends, atol=1e-5, rtol=1e-5)
    assert rolled.fresh == (0,)


@pytest.mark.usefixtures("small_world")
def test_streams_on_the_way_are_judged(tmp_path, monkeypatch):
    """The averaged weights make the streams of both step lists, decoded and judged."""
    session = open_session(tmp_path, lively_model(), trial_captions=2)

    class Decoding(FakeVae):
        def denormalise(self, latents):
            return latents

        def decode_whole(self, latents):
            frames = 4 * latents.shape[2] - 3
            return latents[:, :3, :1].expand(-1, -1, frames, -1, -1).repeat_interleave(8, 3).repeat_interleave(8, 4)

    class AtOnce:
        """A judge without processes of its own."""

        def submit_all(self, clips, scenes):
            judged = []
            for clip, scene in zip(clips, scenes, strict=True):
                assert clip.shape == (81, 128, 192, 3)
                verdict = Future()
                verdict.set_result(
                    Verdict(background=True, count=True, color=True, shape=len(judged) > 0, motion=False)
                )
                judged.append((scene, verdict))
            return judged

    assert session.trial is not None
    session.trial.vae = Decoding()
    monkeypatch.setattr(session, "judge", AtOnce())
    session.open_stage(replace(ADAPT, steps=1))
    session.follow_truth()
    verdicts = session.close_stage()
    assert verdicts["every_chunk_shape"] == verdicts["diagonal_shape"] == 0.5
    assert verdicts["diagonal_color"] == 1.0


def test_the_folders_are_checkpoints_that_stream(tmp_path, monkeypatch):
    """Of the shipped sizes, because VAE, text encoder and tokenizer are those of the shipped model."""
    from examples.train_sprites.state_parts import write_parts
    from reelray.cluster.model_catalog import PACKAGED
    from reelray.workers.models.registry import describe_checkpoint, open_checkpoint

    words = list_words()
    torch.manual_seed(0)
    model = SpritesModel.shipped(len(build_tokenizer(words)))
    average = {name: p.half() for name, p in model.named_parameters()}
    (tmp_path / "state").mkdir()
    write_parts({"average": average, "words": json.dumps(words), "step": 1}, tmp_path / "state")
    monkeypatch.chdir(tmp_path)
    out, diagonal = export_causal.export(tmp_path / "state", tmp_path / "sprites-causal", PACKAGED / "sprites")
    for folder, schedule in ((out, EVERY_CHUNK), (diagonal, DIAGONAL)):
        recipe = describe_checkpoint(folder).recipe
        assert recipe.memory == RULE
        assert recipe.schedule == schedule
        assert recipe.chunking.latent_frames == STREAMING.size
        assert not recipe.guidance.needs_unconditional
    loaded = open_checkpoint(diagonal, device="cpu").parts.transformer
    torch.testing.assert_close(
        loaded.blocks[3].ffn.net[2].weight, average["transformer.blocks.3.ffn.net.2.weight"].float()
    )
    assert sum(file.stat().st_size for file in diagonal.rglob("*") if file.is_file()) < 10_000
