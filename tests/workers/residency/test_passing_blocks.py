"""Blocks in host memory: the bits of resident ones, two on the device at most, none when released."""

import pytest
import torch
from torch import nn

from reelray.proto.errors import InputError
from reelray.proto.residency import Blocks, WeightShare
from reelray.workers.models.wan.block import WanBlock
from reelray.workers.models.wan.block_ops import FUSED_OPS
from reelray.workers.models.weight_loading import Stack, load_module
from reelray.workers.residency.choice import place_blocks
from reelray.workers.residency.flat_block import FlatBlock
from reelray.workers.weights.lora import LoraFile
from reelray.workers.weights.safetensors_file import write_safetensors
from tests.support.parallel_cases import make_inputs, predict
from tests.support.residency_cases import BF16, F32, LAYERS, block_bytes, load, save_model

KINDS = [("t2v", F32), ("i2v", F32), ("t2v", BF16)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("transformers")
    for name in ("t2v", "i2v"):
        save_model(path, name)
    return path


@pytest.fixture
def pair(folder, request):
    name, dtype = getattr(request, "param", KINDS[0])
    return load(folder / name, dtype), load(folder / name, dtype, blocks=Blocks.OFFLOADED)


def where(block):
    return {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}


class Watched:
    """A source that notes where the blocks lie that it hands out."""

    def __init__(self, source):
        self.source = source
        self.layers, self.places = [], set()

    def take(self, layer):
        block = self.source.take(layer)
        self.layers.append(layer)
        self.places |= where(block)
        return block


@pytest.mark.parametrize("pair", KINDS, ids=str, indirect=True)
def test_offloaded_blocks_predict_the_bits_of_resident_ones(pair):
    resident, offloaded = pair
    wanted = predict(resident)
    assert wanted.abs().mean() > 0.1
    for _ in range(2):
        assert torch.equal(predict(offloaded), wanted)


@pytest.mark.parametrize("pair", KINDS[:2], ids=str, indirect=True)
def test_contexts_are_those_of_resident_blocks(pair):
    (_, _, wanted, image), (_, _, found, own_image) = (make_inputs(model) for model in pair)
    contexts = [*zip(wanted, found, strict=True), *([] if image is None else [(image, own_image)])]
    for one, other in contexts:
        assert len(one.keys) == LAYERS
        assert all(map(torch.equal, one.keys + one.values, other.keys + other.values))


def test_several_prompts_take_one_pass(pair):
    resident, offloaded = pair
    texts = [torch.randn(1, tokens, 24, generator=torch.Generator().manual_seed(tokens)) for tokens in (3, 7)]
    offloaded.source = watched = Watched(offloaded.source)
    found = offloaded.prepare_texts(texts, merge_padding=False)
    assert watched.layers == list(range(LAYERS))
    for text, context in zip(texts, found, strict=True):
        wanted = resident.prepare_text(text, merge_padding=False)
        assert all(map(torch.equal, wanted.keys + wanted.values, context.keys + context.values))


def test_two_blocks_are_on_the_device_and_no_more(pair):
    resident, offloaded = pair
    source, one = offloaded.source, block_bytes(resident) / LAYERS
    assert source.device_bytes == 0
    offloaded.source = watched = Watched(source)
    predict(offloaded)
    assert len(watched.places) == 2
    assert watched.layers[-LAYERS:] == list(range(LAYERS))
    assert 2 * one <= source.device_bytes <= 2.1 * one + 2 * 256 * 32
    host = {place for block in offloaded.blocks for place in where(block)}
    assert len(host) == LAYERS
    assert not host & watched.places


def test_a_block_stays_as_it_is_until_the_next_is_taken(pair):
    resident, offloaded = pair
    for layer in (0, 1, 4, 4, 2, 3, 0, 3):  # in order, skipping, again, back
        taken = dict(offloaded.block(layer).named_parameters())
        wanted = dict(resident.blocks[layer].named_parameters())
        assert taken.keys() == wanted.keys()
        assert all(torch.equal(taken[name], wanted[name]) for name in wanted)
        assert all(taken[name].dtype == wanted[name].dtype for name in wanted)


def test_the_next_block_comes_while_one_computes(pair):
    source = pair[1].source
    asked = []
    fetch = source.feed.fetch
    source.feed.fetch = lambda layer, slot: asked.append(layer) or fetch(layer, slot)
    for layer in [*range(LAYERS), 0, 1]:
        source.take(layer)
        assert asked[-1] == (layer + 1) % LAYERS
    assert asked == [0, 1, 2, 3, 4, 0, 1, 2]  # each once: nothing is fetched that is there or on its way


def test_nothing_of_the_blocks_is_ever_on_the_device_of_the_rest(folder):
    away = load(folder / "t2v", device="meta", blocks=Blocks.OFFLOADED)
    assert {p.device.type for p in away.blocks.parameters()} == {"cpu"}
    assert {p.device.type for name, p in away.named_parameters() if not name.startswith("blocks")} == {"meta"}
    assert away.source.device_bytes == 0


def test_released_slots_leave_and_come_back(pair):
    resident, offloaded = pair
    wanted = predict(resident)
    assert torch.equal(predict(offloaded), wanted)
    modules = list(map(id, offloaded.source.modules()))
    offloaded.source.release()
    assert offloaded.source.device_bytes == 0
    assert all(p.is_meta for block in offloaded.source.modules() for p in block.parameters())
    assert torch.equal(predict(offloaded), wanted)
    assert list(map(id, offloaded.source.modules())) == modules  # what was set up or compiled stays


def test_some_layers_can_be_kept(folder, pair):
    resident, offloaded = pair
    fewer = load(folder / "t2v", layers=range(1, 4), blocks=Blocks.OFFLOADED)
    offloaded.keep_layers(range(1, 4))
    for model in (fewer, offloaded):
        for layer in (1, 2, 3, 1):
            assert torch.equal(model.block(layer).ffn.layers[0].weight, resident.blocks[layer].ffn.layers[0].weight)
        assert len(model.source.feed._held) == 3
        with pytest.raises(ValueError, match="layer 4 is not here"):
            model.block(4)


def test_ops_and_compilation_reach_the_blocks_that_compute(pair):
    _, offloaded = pair
    offloaded.use_ops(FUSED_OPS)
    assert {offloaded.block(layer).ops for layer in range(LAYERS)} == {FUSED_OPS}
    offloaded.compile_blocks(backend="eager")
    assert all("before_self" in vars(offloaded.block(layer)) for layer in range(LAYERS))


def test_lora_is_merged_on_its_way(folder, tmp_path):
    generator = torch.Generator().manual_seed(5)
    factors = {"lora_A": (2, 64), "lora_B": (64, 2)}
    names = ["blocks.1.attn1.to_k", "blocks.4.attn2.to_q"]
    tensors = {
        f"{name}.{part}.weight": torch.randn(shape, generator=generator)
        for name in names
        for part, shape in factors.items()
    }
    write_safetensors(tmp_path / "lora.safetensors", tensors)
    lora = LoraFile(path=tmp_path / "lora.safetensors", alpha=1.0)
    plain, merged = load(folder / "t2v", BF16), load(folder / "t2v", BF16, lora=lora)
    offloaded = load(folder / "t2v", BF16, lora=lora, blocks=Blocks.OFFLOADED)
    assert torch.equal(predict(offloaded), predict(merged))
    assert not torch.equal(predict(merged), predict(plain))


def test_what_cannot_be_is_refused(folder):
    with pytest.raises(InputError, match="this rank has its layers to itself"):
        load(folder / "t2v", blocks=Blocks.SHARDED)
    with pytest.raises(ValueError, match="share 2 of 2 is none"):
        WeightShare(index=2, ranks=2)
    uneven = nn.ModuleList([nn.Linear(3, 3, device="meta"), nn.Linear(3, 4, device="meta")])
    with pytest.raises(ValueError, match="only blocks of one kind"):
        place_blocks(uneven, range(2), Blocks.OFFLOADED, CPU)


def test_a_flat_block_is_aligned_and_holds_every_parameter(pair):
    block = pair[0].blocks[0]
    assert isinstance(block, WanBlock)
    flat = FlatBlock.of(block)
    ends = [place.start + place.nbytes for place in flat.places.values()]
    starts = [place.start for place in flat.places.values()]
    assert all(start % 256 == 0 for start in starts)
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    assert ends[-1] <= flat.nbytes


class Sum(nn.Module):
    """A network of three blocks beside a table, as an encoder is."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 3)
        self.steps = nn.ModuleList([nn.Linear(3, 3) for _ in range(3)])
        self.norm = nn.LayerNorm(3)


def test_a_network_can_be_loaded_to_the_host_with_little_on_the_device(tmp_path):
    torch.manual_seed(0)
    state = Sum().state_dict()
    write_safetensors(tmp_path / "sum.safetensors", dict(state))
    stack = Stack(name="steps", beside=("table",))
    away = load_module(
        Sum, [tmp_path / "sum.safetensors"], lambda name: name, device="meta", dtype=torch.float32, stack=stack
    )
    places = {name: parameter.device.type for name, parameter in away.named_parameters()}
    assert {name for name, place in places.items() if place == "meta"} == {"norm.weight", "norm.bias"}
    assert all(torch.equal(away.get_parameter(name), state[name]) for name, place in places.items() if place == "cpu")
