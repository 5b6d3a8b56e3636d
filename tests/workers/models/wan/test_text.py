"""Text encoding against transformers and WanPipeline."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel

from reelray.cluster.model_catalog import PACKAGED
from reelray.proto.errors import CheckpointError, PromptError, WeightsError
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.models.wan.text import TextEncoder, load_text_encoder, load_tokenizer
from reelray.workers.models.wan.umt5 import Umt5Config, find_buckets
from tests.support.tiny_checkpoint import TEXT_DIM, TEXT_TOKENS

PROMPTS = ["a red circle moves left", "", "the green square on a blue background, 3 times!"]


def load(folder: Path, *, dtype: torch.dtype = torch.float32, **config) -> TextEncoder:
    values = json.loads((folder / "text_encoder" / "config.json").read_text())
    return load_text_encoder(
        [folder / "text_encoder" / "model.safetensors"],
        folder / "tokenizer",
        Umt5Config.from_transformers(values | config),
        device=torch.device("cpu"),
        dtype=dtype,
        text_tokens=TEXT_TOKENS,
        digest="d",
    )


@pytest.fixture(scope="module")
def encoder(tiny_t2v: Path) -> TextEncoder:
    return load(tiny_t2v)


@pytest.fixture(scope="module")
def oracle(tiny_t2v: Path) -> Tensor:
    pipeline = WanPipeline.from_pretrained(tiny_t2v)
    with torch.no_grad():
        embeddings, _ = pipeline.encode_prompt(
            PROMPTS, do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS, device="cpu"
        )
    return embeddings


def test_embeddings_equal_those_of_wan_pipeline(encoder: TextEncoder, oracle: Tensor) -> None:
    ours = encoder.encode(PROMPTS)
    assert ours.shape == (3, TEXT_TOKENS, TEXT_DIM)
    assert torch.equal(ours, oracle)


@pytest.mark.parametrize("words", [1, 15, 16, 176, 177, 300, 511])
def test_a_prompt_of_any_length_has_the_embedding_of_wan_pipeline(words: int) -> None:
    sprites = PACKAGED / "sprites"
    pipeline = WanPipeline.from_pretrained(sprites, transformer=None, vae=None, dtype=torch.float32)
    prompt = " ".join(["red"] * words)
    with torch.no_grad():  # attention with gradients is another one
        expected, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)
    found = open_checkpoint(sprites, device="cpu").parts.text_encoder.encode([prompt])
    assert torch.equal(found, expected)


def test_an_embedding_does_not_depend_on_its_batch_or_the_cache(tiny_t2v: Path, encoder: TextEncoder) -> None:
    together = encoder.encode(PROMPTS)
    for prompt, row in zip(PROMPTS, together, strict=True):
        assert torch.equal(load(tiny_t2v).encode([prompt])[0], row)
        assert torch.equal(encoder.encode([f"  {prompt}\n"])[0], row)


def test_a_prompt_is_encoded_once(tiny_t2v: Path) -> None:
    fresh, calls = load(tiny_t2v), []
    tokenize = fresh._tokenize
    fresh._tokenize = lambda text: calls.append(text) or tokenize(text)
    first = fresh.encode(["a cat", "a dog"])
    first.zero_()  # a caller may write into what it got
    again = fresh.encode(["a dog", " a  cat"])
    assert calls == ["a cat", "a dog"]
    assert again.abs().sum() > 0


def test_a_long_prompt_is_refused_with_its_length(encoder: TextEncoder) -> None:
    fits = " ".join(["red"] * (TEXT_TOKENS - 1))
    encoder.encode([fits])
    with pytest.raises(PromptError, match=f"has {TEXT_TOKENS + 1} tokens and the model reads at most {TEXT_TOKENS}"):
        encoder.encode([fits + " red"])
    with pytest.raises(PromptError) as caught:
        encoder.encode(["red " * 100_000])
    assert len(caught.value.message) < 200
    assert "\n" not in caught.value.message


def test_original_wan_file_gives_the_same_embeddings(tiny_t2v: Path, tmp_path: Path, oracle: Tensor) -> None:
    names = {
        "SelfAttention.q": "attn.q",
        "SelfAttention.k": "attn.k",
        "SelfAttention.v": "attn.v",
        "SelfAttention.o": "attn.o",
        "SelfAttention.relative_attention_bias": "pos_embedding.embedding",
        "DenseReluDense.wi_0": "ffn.gate.0",
        "DenseReluDense.wi_1": "ffn.fc1",
        "DenseReluDense.wo": "ffn.fc2",
    }
    theirs = UMT5EncoderModel.from_pretrained(tiny_t2v / "text_encoder").encoder
    original = {"token_embedding.weight": theirs.embed_tokens.weight, "norm.weight": theirs.final_layer_norm.weight}
    for index, block in enumerate(theirs.block):
        for part, (layer, norm) in enumerate(zip(block.layer, ("norm1", "norm2"), strict=True), start=1):
            assert norm == f"norm{part}"
            original[f"blocks.{index}.{norm}.weight"] = layer.layer_norm.weight
            for name, parameter in layer.named_parameters():
                if "layer_norm" not in name:
                    original[f"blocks.{index}.{names[name.removesuffix('.weight')]}.weight"] = parameter
    path = tmp_path / "models_t5.pth"
    torch.save({name: tensor.detach().clone() for name, tensor in original.items()}, path)
    values = json.loads((tiny_t2v / "text_encoder" / "config.json").read_text())
    encoder = load_text_encoder(
        [path],
        tiny_t2v / "tokenizer",
        Umt5Config.from_transformers(values),
        device=torch.device("cpu"),
        dtype=torch.float32,
        text_tokens=TEXT_TOKENS,
        digest="d",
    )
    assert (encoder.encode(PROMPTS) - oracle).norm() / oracle.norm() < 1e-6


def test_the_defaults_are_umt5_xxl() -> None:
    config = Umt5Config()
    assert (config.vocab_size, config.d_model, config.num_heads * config.d_kv) == (256384, 4096, 4096)
    assert (config.d_ff, config.num_layers) == (10240, 24)


def test_buckets_match_transformers_far_out(tiny_t2v: Path) -> None:
    attention = UMT5EncoderModel.from_pretrained(tiny_t2v / "text_encoder").encoder.block[0].layer[0].SelfAttention
    attention.relative_attention_num_buckets, attention.relative_attention_max_distance = 32, 128
    positions = torch.arange(400)
    expected = attention._relative_position_bucket(positions[None, :] - positions[:, None])
    assert torch.equal(find_buckets(400, Umt5Config()), expected)


def test_bfloat16_weights_give_bfloat16_embeddings(tiny_t2v: Path, oracle: Tensor) -> None:
    ours = load(tiny_t2v, dtype=torch.bfloat16).encode(PROMPTS)
    assert ours.dtype == torch.bfloat16
    assert (ours.float() - oracle).norm() / oracle.norm() < 0.03


def test_fast_tokenizer_gives_the_ids_of_auto_tokenizer(tiny_t2v: Path) -> None:
    ours = load_tokenizer(tiny_t2v / "tokenizer", vocab_size=1000)
    theirs = AutoTokenizer.from_pretrained(tiny_t2v / "tokenizer")
    for prompt in [*PROMPTS, "ünknown 猫 <pad>", "x" * 500]:
        assert ours(prompt) == theirs(prompt, add_special_tokens=True).input_ids
    assert ours("")[-1] == theirs.eos_token_id


def test_a_missing_or_broken_tokenizer_is_told(tiny_t2v: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer here; tokenizer\.json or spiece\.model is needed"):
        load_tokenizer(tmp_path / "tokenizer", vocab_size=10)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: knows 110 tokens; the text encoder embeds 10"):
        load_tokenizer(tiny_t2v / "tokenizer", vocab_size=10)
    shutil.copytree(tiny_t2v / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "tokenizer.json").write_text('{"model": 3')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a readable tokenizer file"):
        load_tokenizer(tmp_path / "tokenizer", vocab_size=1000)


def test_weights_that_do_not_fit_are_told(tiny_t2v: Path) -> None:
    with pytest.raises(WeightsError, match=r"has shape \[40, 24\]; \[41, 24\] is expected"):
        load(tiny_t2v, d_ff=41)
    with pytest.raises(WeightsError, match=r"blocks\.2\.attention_norm\.weight is missing; 10 of 32 tensors are"):
        load(tiny_t2v, num_layers=3)


def test_another_text_model_is_told(tiny_t2v: Path) -> None:
    with pytest.raises(CheckpointError, match="the model is t5 with gated-gelu; served: umt5"):
        load(tiny_t2v, model_type="t5")
    with pytest.raises(CheckpointError, match="field `d_ff` is missing"):
        Umt5Config.from_transformers(
            {"model_type": "umt5", "feed_forward_proj": "gated-gelu"}
            | dict.fromkeys(["vocab_size", "d_model", "d_kv", "num_heads", "num_layers"], 8)
        )
