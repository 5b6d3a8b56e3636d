"""The text encoder learns from captions alone which words belong to one sprite."""

import random

import torch

from examples.train_sprites import pretrain_text
from examples.train_sprites.captions import write_caption
from examples.train_sprites.pretrain_text import read_captions, teach_binding
from examples.train_sprites.scenes import sample_scenes
from examples.train_sprites.sprites_model import SpritesModel
from examples.train_sprites.tokenizer import build_tokenizer, list_words
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.umt5 import Umt5Config

CPU = torch.device("cpu")


def test_the_words_of_a_sprite_are_its_colour_and_shape():
    tokenizer = build_tokenizer(list_words())
    captions = read_captions(tokenizer, 40, "train", 3, CPU)
    scenes = sample_scenes(40, torch.Generator().manual_seed(3), split="train", pair_share=pretrain_text.PAIR_SHARE)
    rng = random.Random(3)
    for index in range(40):
        scene = scenes.describe(index)
        assert tokenizer.decode(captions.ids[index], skip_special_tokens=True).replace(" ,", ",") == (
            write_caption(scene, rng)
        )
        for sprite in range(2):
            told = tokenizer.convert_ids_to_tokens(captions.ids[index][captions.is_told[index, sprite]].tolist())
            there = scene.sprites[sprite : sprite + 1]
            assert told == [word for one in there for word in (one.color, one.shape)]


def test_words_come_to_know_their_sprite(monkeypatch):
    monkeypatch.setattr(pretrain_text, "CAPTIONS", 600)
    monkeypatch.setattr(pretrain_text, "CHECKED", 200)
    monkeypatch.setattr(pretrain_text, "BATCH", 32)
    tokenizer = build_tokenizer(list_words())
    text = Umt5Config(vocab_size=len(tokenizer), d_model=48, d_kv=8, num_heads=6, d_ff=64, num_layers=2)
    transformer = WanConfig(num_attention_heads=1, attention_head_dim=16, text_dim=48, ffn_dim=32, num_layers=1)
    torch.manual_seed(0)
    model = SpritesModel(text, transformer)
    before = teach_binding(model, tokenizer, steps=0, rate=0.0, seed=0)
    after = teach_binding(model, tokenizer, steps=80, rate=4e-3, seed=0)
    assert before["shape"] < 0.5
    assert after["shape"] > 0.95
    assert after["color"] > 0.95
