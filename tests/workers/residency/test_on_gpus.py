"""Offloaded blocks and released encoders on a CUDA device: equal bits, fewer bytes."""

import pytest
import torch

from reelray.proto.residency import Blocks, Encoder, Residency
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.models.wan.block_ops import choose_ops
from tests.support.parallel_cases import predict
from tests.support.residency_cases import BF16, load, peak_of, save_model

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0)
# 40 MB a block: on few tokens a copy takes longer than the block, on many the block takes longer than the copy.
WIDE = {"num_attention_heads": 8, "attention_head_dim": 128, "ffn_dim": 4096, "num_layers": 8}
SIZES = [(1, 4, 4), (5, 32, 32)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("transformers"), "t2v", **WIDE)


def load_on_gpu(folder, **placing):
    model = load(folder, BF16, CUDA, **placing)
    model.use_ops(choose_ops(CUDA))
    return model


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_copies_and_work_do_not_overtake_each_other(folder, size):
    resident, offloaded = load_on_gpu(folder), load_on_gpu(folder, blocks=Blocks.OFFLOADED)
    assert all(p.is_pinned() for p in offloaded.blocks.parameters())
    wanted = predict(resident, size=size)
    assert wanted.abs().mean() > 0.01
    for _ in range(5):
        assert torch.equal(predict(offloaded, size=size), wanted)


def test_other_streams_and_a_dropped_source_change_nothing(folder):
    wanted = predict(load_on_gpu(folder), size=SIZES[1])
    offloaded = load_on_gpu(folder, blocks=Blocks.OFFLOADED)
    with torch.cuda.stream(torch.cuda.Stream(CUDA)):
        for _ in range(3):
            assert torch.equal(predict(offloaded, size=SIZES[1]), wanted)
            offloaded.source.release()
    torch.cuda.synchronize(CUDA)
    taken = load_on_gpu(folder, blocks=Blocks.OFFLOADED)
    taken.block(0)
    del taken  # while its next block is being copied
    assert torch.equal(predict(load_on_gpu(folder), size=SIZES[1]), wanted)


def test_offloaded_blocks_need_less_memory(folder):
    predict(load_on_gpu(folder), size=SIZES[0])  # so that the libraries have their workspaces
    peaks = {}
    for way in (Blocks.RESIDENT, Blocks.OFFLOADED):
        peaks[way], _ = peak_of(CUDA, lambda way=way: predict(load_on_gpu(folder, blocks=way), size=SIZES[0]))
    one = 2 * (8 * 1024**2 + 2 * 1024 * 4096)
    # loading included: of eight blocks two are there
    assert 5.5 * one < peaks[Blocks.RESIDENT] - peaks[Blocks.OFFLOADED] < 6.5 * one


def test_a_released_encoder_leaves_the_device(tiny_i2v):
    def held(encoder):
        model = open_checkpoint(tiny_i2v, device=CUDA, residency=Residency(encoder=encoder))
        contexts = model.encode_text(["red circle", "blurry"])
        bytes_held = sum(p.nbytes for p in model.parts.text_encoder._encoder.parameters() if p.is_cuda)
        source = model.parts.text_encoder._encoder.source
        return [keys.cpu() for context in contexts for keys in context.keys], bytes_held, source

    wanted, resident_bytes, _ = held(Encoder.RESIDENT)
    found, released_bytes, source = held(Encoder.RELEASED)
    assert all(map(torch.equal, wanted, found))
    assert released_bytes < 0.01 * resident_bytes
    assert source.device_bytes == 0
