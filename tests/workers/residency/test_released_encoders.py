"""Encoders of text and image that are on the device for a prompt only."""

import pytest
import torch

from reelray.proto.errors import PromptError
from reelray.proto.residency import Blocks, Encoder, Residency
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.models.wan.clip import ClipConfig, load_clip
from reelray.workers.models.wan.text import load_text_encoder
from reelray.workers.models.wan.umt5 import Umt5Config
from reelray.workers.recipes.presets import read_json
from tests.support.tiny_checkpoint import TEXT_TOKENS

RELEASED = Residency(encoder=Encoder.RELEASED)
PROMPTS = ["red circle moves left", "blurry", "red circle moves left"]


@pytest.fixture(params=["t2v", "i2v"])
def pair(request):
    folder = request.getfixturevalue(f"tiny_{request.param}")
    return open_checkpoint(folder, device="cpu"), open_checkpoint(folder, device="cpu", residency=RELEASED)


def encoders(model):
    clip = model.parts.clip
    return [model.parts.text_encoder._encoder, *([] if clip is None else [clip])]


def watch(source):
    """Note the bytes on the device whenever a block is taken."""
    seen, take = [], source.take

    def noting(layer):
        block = take(layer)
        seen.append(source.device_bytes)
        return block

    source.take = noting
    return seen


def assert_same_contexts(wanted, found):
    for one, other in zip(wanted, found, strict=True):
        assert all(map(torch.equal, one.keys + one.values, other.keys + other.values))


def test_contexts_are_the_same_bits_and_nothing_stays(pair):
    resident, released = pair
    assert (resident.residency, released.residency) == (Residency(), RELEASED)
    seen = [watch(encoder.source) for encoder in encoders(released)]
    assert all(encoder.source.device_bytes == 0 for encoder in encoders(released))
    for _ in range(2):
        assert_same_contexts(resident.encode_text(PROMPTS), released.encode_text(PROMPTS))
    if resident.parts.clip is not None:
        image = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        wanted, found = resident.encode_image(image, frames=5), released.encode_image(image, frames=5)
        assert_same_contexts([wanted.context], [found.context])
        assert torch.equal(wanted.beside, found.beside)
    assert [len(taken) for taken in seen] == [2, 2][: len(seen)]  # both prompts in one pass, and no pass for known ones
    assert all(count > 0 for taken in seen for count in taken)
    assert all(encoder.source.device_bytes == 0 for encoder in encoders(released))


def test_nothing_stays_after_an_error(pair, monkeypatch):
    _, released = pair
    (text, *_) = encoders(released)
    with monkeypatch.context() as patch:
        patch.setattr(text.norm, "forward", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            released.encode_text(["red"])
    assert text.source.device_bytes == 0
    with pytest.raises(PromptError):
        released.encode_text(["red", "a " * 600])
    assert len(released.encode_text(["red"])) == 1


def test_only_small_parts_are_ever_on_the_device(tiny_i2v):
    config = Umt5Config.from_transformers(read_json(tiny_i2v / "text_encoder" / "config.json"))
    files = {part: [next((tiny_i2v / part).glob("*.safetensors"))] for part in ("text_encoder", "image_encoder")}
    meta = {"device": torch.device("meta"), "dtype": torch.float32, "released": True}
    text = load_text_encoder(
        files["text_encoder"], tiny_i2v / "tokenizer", config, text_tokens=TEXT_TOKENS, digest="d", **meta
    )._encoder
    assert {name for name, p in text.named_parameters() if p.is_meta} == {"norm.weight"}
    clip_config = ClipConfig.from_transformers(read_json(tiny_i2v / "image_encoder" / "config.json"))
    clip = load_clip(files["image_encoder"], clip_config, **meta)
    assert not any(p.is_meta for p in clip.layers.parameters())
    assert text.source.device_bytes == clip.source.device_bytes == 0


def test_blocks_and_encoder_may_both_be_elsewhere(tiny_i2v):
    way = Residency(blocks=Blocks.OFFLOADED, encoder=Encoder.RELEASED)
    resident, away = (open_checkpoint(tiny_i2v, device="cpu", residency=how) for how in (None, way))
    assert str(away.residency) == "offloaded, encoder released"
    assert_same_contexts(resident.encode_text(PROMPTS), away.encode_text(PROMPTS))
