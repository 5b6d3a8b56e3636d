"""The tiny decoder against the layers of its file, however a video is cut, paused or moved."""

import pytest
import torch

from reelray.proto.errors import SizeError, WeightsError
from reelray.workers.models.wan.taehv.files import load_taehv
from reelray.workers.models.wan.taehv.fused import FusedNetwork
from reelray.workers.models.wan.taehv.model import TaehvState
from reelray.workers.models.wan.vae import DecodeState
from tests.support.tiny_taehv import decode_whole, draw_state

LATENTS = torch.randn(2, 16, 6, 4, 5, generator=torch.Generator().manual_seed(3)) * 2


def write(folder, state, name="taew2_1.pth"):
    file = folder / name
    torch.save(state, file)
    return file


def load(file, **wishes):
    return load_taehv(file, latent_channels=16, device="cpu", dtype=torch.float32, **wishes)


@pytest.fixture(scope="module")
def state():
    return draw_state()


@pytest.fixture(scope="module")
def model(state, tmp_path_factory):
    return load(write(tmp_path_factory.mktemp("taehv"), state))


@pytest.fixture(scope="module")
def whole(state):
    return torch.stack([decode_whole(state, video).transpose(0, 1) for video in LATENTS])


def decode_in(model, sizes, state=None):
    state = state or model.new_decode_state(batch=2)
    return torch.cat([model.decode(part, state) for part in LATENTS.split(sizes, dim=2)], dim=2)


@pytest.mark.parametrize("sizes", [[1] * 6, [6], [3, 3], [1, 5], [2, 1, 3]])
def test_equals_the_whole_clip_however_it_is_cut(model, whole, sizes):
    found = decode_in(model, sizes)
    assert found.shape == (2, 3, 21, 32, 40)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
    assert torch.equal(found, decode_in(model, [6]))
    assert 0.2 < whole.mean() < 0.8
    assert (whole[:, :, 1:] - whole[:, :, :-1]).abs().mean() > 0.01


@pytest.mark.parametrize("per_call", [2, 3, 6])
def test_several_latents_a_call_agree_within_rounding(model, whole, per_call):
    model.latents_per_call = per_call
    try:
        found = decode_in(model, [4, 2])
    finally:
        model.latents_per_call = 1
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [[1] * 6, [1, 5], [4, 2]])
def test_the_gpu_form_decodes_as_the_network_does(model, whole, sizes, monkeypatch):
    monkeypatch.setattr(model, "_fused", FusedNetwork(model.network))
    torch.testing.assert_close(decode_in(model, sizes), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [[1] * 6, [1, 5], [4, 2]])
def test_the_gpu_form_equals_the_network_with_equal_slots(model, whole, sizes):
    fused, slots, parts = FusedNetwork(model.network), None, []
    for part in LATENTS.split(sizes, dim=2):
        pixels, slots = fused(part, slots)
        parts.append(pixels)
    torch.testing.assert_close(torch.cat(parts, 2)[:, :, 3:].clamp(0, 1), whole, atol=1e-5, rtol=0)
    reference = model.new_decode_state(batch=2)
    decode_in(model, [6], reference)
    for mine, theirs in zip(slots, reference.slots, strict=True):
        assert (mine - theirs).abs().max() <= 5e-6 * theirs.abs().max()


def test_a_frame_depends_on_what_was_before(model, whole):
    """The negative control: a state that is thrown away shows."""
    alone = model.decode(LATENTS[:, :, 3:], model.new_decode_state(batch=2))
    assert (alone - whole[:, :, -alone.shape[2] :]).abs().max() > 0.05


@pytest.mark.parametrize("pause", [1, 4])
def test_a_stored_state_goes_on_as_if_nothing_happened(model, pause):
    expected = decode_in(model, [6])
    state = model.new_decode_state(batch=2)
    start = model.decode(LATENTS[:, :, :pause], state)
    copy, stored = state.clone(), state.to_bytes()
    model.decode(torch.randn_like(LATENTS), state)
    loaded = TaehvState.from_bytes(stored)
    assert loaded == copy != state
    assert loaded.weights == model.digest != ""
    for resumed in (copy, loaded):
        rest = model.decode(LATENTS[:, :, pause:], resumed)
        assert torch.equal(torch.cat([start, rest], dim=2), expected)


def test_states_of_the_two_decoders_are_not_taken_for_each_other(model):
    with pytest.raises(ValueError, match="a taehv state of version 2, wanted decode"):
        DecodeState.from_bytes(model.new_decode_state().to_bytes())
    with pytest.raises(ValueError, match="a decode state of version 2, wanted taehv"):
        TaehvState.from_bytes(DecodeState().to_bytes())


def test_latents_that_do_not_go_on_are_refused(model):
    state = model.new_decode_state(batch=2)
    model.decode(LATENTS[:, :, :1], state)
    before = state.clone()
    with pytest.raises(SizeError, match="began with"):
        model.decode(torch.zeros(2, 16, 1, 4, 6), state)
    assert state == before


def test_safetensors_and_a_file_without_encoder_load_too(state, tmp_path, whole):
    from safetensors.torch import save_file

    file = tmp_path / "taew2_1.safetensors"
    save_file({name: value for name, value in state.items() if name.startswith("decoder.")}, file)
    torch.testing.assert_close(decode_in(load(file), [6]), whole, atol=1e-5, rtol=0)


def test_of_more_frames_than_needed_the_last_ones_count(state, tmp_path, whole):
    grow = state["decoder.7.conv.weight"]
    more = {**state, "decoder.7.conv.weight": torch.cat([torch.randn_like(grow), grow])}
    torch.testing.assert_close(decode_in(load(write(tmp_path, more)), [6]), whole, atol=1e-5, rtol=0)


def _without(state):
    return {name: value for name, value in state.items() if name != "decoder.10.conv.2.bias"}


def _misshapen(state):
    return {**state, "decoder.16.conv.4.weight": torch.zeros(8, 9, 3, 3)}


def _with_more(state):
    return {**state, "decoder.23.weight": torch.zeros(3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, "tensor stages.1.blocks.1.second.bias is missing"),
        (_misshapen, r"decoder.16.conv.4.weight has shape \[8, 9, 3, 3\]; \[8, 8, 3, 3\] is expected"),
        (_with_more, "tensor decoder.23.weight is not part of this model"),
        (lambda _: draw_state(latent_channels=48), "latents of 48 channels, and this model's have 16"),
        (lambda s: {**s, "decoder.22.weight": torch.zeros(12, 8, 3, 3)}, "makes 12 values of a pixel"),
        (lambda _: {"conv_in.weight": torch.zeros(4)}, "is no tiny decoder in the layout of taew2_1"),
        (lambda _: {"decoder.1.weight": print}, "holds more than tensors, or is damaged"),
    ],
    ids=["missing", "shape", "unknown", "latents", "patches", "layout", "code"],
)
def test_other_files_are_refused(state, tmp_path, change, message):
    with pytest.raises(WeightsError, match=message):
        load(write(tmp_path, change(state)))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"gone.pth: no such file; a preview decoder is a file such as taew2_1.pth"):
        load(tmp_path / "gone.pth")
    (tmp_path / "some.onnx").touch()
    with pytest.raises(WeightsError, match=r"some\.onnx: a preview decoder is a \.safetensors"):
        load(tmp_path / "some.onnx")


@pytest.mark.gpu
def test_bf16_on_a_gpu_stays_near_fp32_on_the_cpu(tmp_path):
    state = draw_state(widths=(256, 128, 64, 64))
    latents = torch.randn(1, 16, 5, 12, 20, generator=torch.Generator().manual_seed(1))
    wanted = decode_whole(state, latents[0]).transpose(0, 1)
    model = load_taehv(write(tmp_path, state), latent_channels=16, device="cuda", dtype=torch.bfloat16)
    decoding = model.new_decode_state()
    found = torch.cat([model.decode(part.cuda(), decoding) for part in latents.split([1, 2, 2], dim=2)], dim=2)
    assert (found[0].cpu().float() - wanted).abs().mean() < 0.01
