"""Checkpoints of which a rank opens what it has a use for."""

from pathlib import Path

import pytest
import torch

from reelray.proto.errors import EngineError
from reelray.proto.residency import Networks
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.models.wan.model import WanModel


def open_part(folder: Path, networks: Networks) -> WanModel:
    model = open_checkpoint(folder, device="cpu", networks=networks)
    assert isinstance(model, WanModel)
    return model


def test_a_decoder_alone_decodes_and_nothing_else(tiny_t2v: Path) -> None:
    whole, alone = (open_part(tiny_t2v, networks) for networks in (Networks.ALL, Networks.DECODING))
    assert (alone.digest, alone.facts, alone.dtype) == (whole.digest, whole.facts, whole.dtype)
    latents = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    decoded = [model.decode(latents, model.new_decode_state()) for model in (alone, whole)]
    assert torch.equal(*decoded)
    with pytest.raises(EngineError, match="without TextEncoder"):
        alone.encode_text(["a red circle"])
    with pytest.raises(EngineError, match="without WanTransformer"):
        alone.key_shape(1)


@pytest.mark.parametrize("task", ["t2v", "i2v"])
def test_a_denoiser_without_a_decoder_predicts_the_same(task: str, tiny_t2v: Path, tiny_i2v: Path) -> None:
    folder = tiny_t2v if task == "t2v" else tiny_i2v
    found = []
    for networks in (Networks.ALL, Networks.DENOISING):
        model = open_part(folder, networks)
        latents = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        (text,) = model.encode_text(["a red circle"])
        picture = torch.zeros((32, 32, 3), dtype=torch.uint8)
        image = None if task == "t2v" else [model.encode_image(picture, frames=9)]
        timestep, positions = torch.full((1, 3), 500.0), torch.arange(3)[None]
        found.append(model.denoise(latents, timestep, [text], positions_BT=positions, image=image))
        assert model.facts == open_part(folder, Networks.ALL).facts
    assert torch.equal(*found)
    if task == "t2v":
        with pytest.raises(EngineError, match="without WanVae"):
            model.new_decode_state()
