"""The whole loop of the transformer's training on a stand-in for the VAE, and the export of what it leaves."""

import time

import pytest
import torch

from examples.train_sprites import dit_session, export
from examples.train_sprites.dit_loss import draw_sigmas, training_loss
from examples.train_sprites.dit_session import Settings
from examples.train_sprites.latent_pool import LatentPool
from examples.train_sprites.optimisers import split_for_muon
from examples.train_sprites.ranks import Ranks
from examples.train_sprites.sprites_model import MUON_PREFIXES, SpritesModel
from examples.train_sprites.tokenizer import build_tokenizer, list_words
from examples.train_sprites.train_dit import Session, train
from reelray.proto.errors import WeightsError
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.umt5 import Umt5Config


def tiny_model(vocabulary=76):
    text = Umt5Config(vocab_size=vocabulary, d_model=16, d_kv=8, num_heads=2, d_ff=24, num_layers=2)
    return SpritesModel(
        text, WanConfig(num_attention_heads=1, attention_head_dim=16, text_dim=16, ffn_dim=32, num_layers=1)
    )


class FakeVae:
    latents_mean = torch.zeros(16)

    def encode_whole(self, video):
        small = video[:, :1, ::4, ::8, ::8].float()
        return small.expand(-1, 16, -1, -1, -1), small

    def normalise(self, latents):
        return latents


@pytest.fixture
def small_world(monkeypatch):
    monkeypatch.setattr(dit_session, "load_vae", lambda _folder, _device: FakeVae())
    monkeypatch.setattr(SpritesModel, "shipped", classmethod(lambda _cls, vocabulary: tiny_model(vocabulary)))
    monkeypatch.setattr(dit_session.DitSession, "CHUNK", 2)


def settings(**changes):
    values = {"steps": 4, "batch": 3, "pool": 4, "first_clips": 4, "renew_every": 3, "sync_every": 1}
    return Settings(
        **{**values, "compile_model": False, "trial_captions": 0, "text_steps": 0, "log_every": 1, **changes}
    )


def session(out, *, resume=False, stop_after=None, begin_from=None):
    return Session(
        out=out,
        stop_after=stop_after,
        resume=resume,
        started=time.monotonic(),
        begin_from=begin_from,
    )


@pytest.mark.usefixtures("small_world")
def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    assert not train(settings(), session(tmp_path, stop_after=0.0), tmp_path, Ranks())
    assert train(settings(), session(tmp_path, resume=True), tmp_path, Ranks())
    rows = [line for line in (tmp_path / "log.jsonl").read_text().splitlines() if '"loss"' in line]
    assert [int(row.split('"step": ')[1].split(",")[0]) for row in rows] == [1, 2, 3, 4]
    model, words = export.load_average(tmp_path)
    assert words == list_words()
    assert not torch.equal(model.transformer.proj_out.weight, torch.zeros_like(model.transformer.proj_out.weight))


@torch.no_grad()
def test_a_fresh_text_encoder_looks_at_neighbours():
    """Else two colours and two shapes are a bag of words, whichever belongs to which."""
    torch.manual_seed(0)
    model = SpritesModel.shipped(76)
    words = torch.arange(10, 30)
    near, far = words.clone(), words.clone()
    near[9], far[18] = 75, 75
    ids = torch.nn.functional.pad(torch.stack([words, near, far]), (0, 8))
    rows = model.embed(ids)[:, 10]
    assert (rows[1] - rows[0]).norm() > 3 * (rows[2] - rows[0]).norm()


@pytest.mark.usefixtures("small_world")
def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"no state\.json"):
        train(settings(), session(tmp_path, resume=True), tmp_path, Ranks())
    with pytest.raises(WeightsError, match="other"):
        train(settings(), session(tmp_path, begin_from=tmp_path / "other"), tmp_path, Ranks())


@pytest.mark.usefixtures("small_world")
def test_a_new_run_teaches_the_words_first_and_a_resumed_one_does_not(tmp_path, monkeypatch):
    taught = []

    def teach(model, _tokenizer, *, steps, **_options):
        taught.append(steps)
        torch.nn.init.constant_(model.text_encoder.embedding.weight, 2.0)
        return {"shape": 1.0}

    monkeypatch.setattr(dit_session, "teach_binding", teach)
    options = settings(text_steps=7, text_rate=0.0)
    train(options, session(tmp_path, stop_after=0.0), tmp_path, Ranks())
    train(options, session(tmp_path, resume=True), tmp_path, Ranks())
    assert taught == [7]
    model, _ = export.load_average(tmp_path)
    assert (model.text_encoder.embedding.weight == 2.0).all()


@pytest.mark.usefixtures("small_world")
def test_a_run_begins_with_the_weights_of_another(tmp_path):
    words = list_words()
    model = tiny_model(len(build_tokenizer(words)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight)).copy_(weight.half())
    export.export_transformer(model, tmp_path / "other" / "transformer")
    export.export_text(model, words, tmp_path / "other")
    whole = session(tmp_path / "second", begin_from=tmp_path / "other")
    assert train(settings(learning_rate=0.0, matrix_rate=0.0, text_rate=0.0), whole, tmp_path, Ranks())
    trained, _ = export.load_average(tmp_path / "second")
    for name, weight in trained.named_parameters():
        assert torch.equal(weight, model.get_parameter(name)), name


def test_muon_leaves_the_text_encoder_alone():
    model = tiny_model()
    matrices, others = split_for_muon(model, MUON_PREFIXES)
    text = {id(parameter) for parameter in model.text_encoder.parameters()}
    assert matrices
    assert not text & {id(parameter) for parameter in matrices}
    assert text <= {id(parameter) for parameter in others}


def test_training_begins_on_short_clips_of_as_many_latent_frames():
    chosen = Settings(batch=48)
    assert chosen.shape(0.0) == (112, 9)
    assert chosen.shape(0.5) == (48, 21)


def test_the_padded_text_encoder_equals_the_served_one():
    model = tiny_model()
    ids = torch.randint(1, 76, (2, 28))
    ids[0, 9:] = 0
    with torch.no_grad():
        got = model.embed(ids)
        torch.testing.assert_close(got[0, :9], model.text_encoder(ids[:1, :9])[0], atol=1e-5, rtol=0)
    assert (got[0, 9:] == 0).all()


def test_the_loss_is_one_graph():
    model, empty = tiny_model(), torch.ones(1, 28, dtype=torch.long)
    compiled = torch.compile(training_loss, fullgraph=True, backend="aot_eager")
    loss, _ = compiled(model, torch.ones(2, 28, dtype=torch.long), empty, torch.randn(2, 16, 2, 4, 4).half(), 0.1)
    loss.backward()
    assert model.transformer.proj_out.weight.grad.abs().sum() > 0


def test_noise_levels_are_spread_evenly_and_crowd_where_much_is_decided():
    sigmas = draw_sigmas(4000, torch.device("cpu"))
    assert sigmas.min() > 0
    assert sigmas.max() < 1
    assert 0.38 < (sigmas > 0.9).float().mean() < 0.45
    assert 0.13 < (sigmas < 0.5).float().mean() < 0.17
    medians = torch.stack([draw_sigmas(48, torch.device("cpu")).median() for _ in range(20)])
    assert medians.std() < 0.02


def test_a_pool_grows_then_replaces_its_oldest_clips():
    pool = LatentPool(FakeVae(), build_tokenizer(list_words()), split="train", capacity=4, seed=0, chunk=2)
    pool.fill(2)
    first = pool.latents[:2].clone()
    pool.fill(4)
    assert pool.filled == 4
    assert torch.equal(pool.latents[:2], first)
    pool.renew()
    assert not torch.equal(pool.latents[:2], first)
    latents, ids = pool.sample(5, frames=3)
    assert latents.shape == (5, 16, 3, 16, 24)
    assert (ids.max(1).values > 0).all()


def test_the_exported_text_encoder_is_transformers_own(tmp_path):
    from transformers import UMT5EncoderModel

    words = list_words()
    model = tiny_model(len(build_tokenizer(words)))
    for weight in model.text_encoder.parameters():
        weight.data.copy_(weight.half())
    export.export_text(model, words, tmp_path)
    loaded = UMT5EncoderModel.from_pretrained(tmp_path / "text_encoder", dtype=torch.float32).eval()
    ids = torch.randint(1, 70, (1, 28))
    ids[0, 20:] = 0
    with torch.no_grad():
        wanted = loaded(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
        torch.testing.assert_close(model.embed(ids)[0, :20], wanted[0, :20], atol=1e-4, rtol=0)
