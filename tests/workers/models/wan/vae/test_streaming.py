import pytest
import torch
from torch import Tensor

from reelray.proto.errors import SizeError
from reelray.workers.models.wan.vae import DecodeState, EncodeState, WanVae
from reelray.workers.models.wan.vae.stream import call_sizes
from tests.workers.models.wan.vae.oracle import make_pair

LATENTS = torch.randn(2, 16, 6, 4, 5, generator=torch.Generator().manual_seed(3))
VIDEO = torch.rand(2, 3, 13, 32, 40, generator=torch.Generator().manual_seed(4)) * 2 - 1


def decode_in(vae: WanVae, latents: Tensor, sizes: list[int], state: DecodeState | None = None) -> Tensor:
    state = state or vae.new_decode_state(batch=latents.shape[0])
    return torch.cat([vae.decode(part, state) for part in latents.split(sizes, dim=2)], dim=2)


@pytest.mark.parametrize("sizes", [[1] * 6, [6], [3, 3], [1, 5], [2, 1, 3]])
@pytest.mark.parametrize("stage_facts", [{}, {"num_res_blocks": 2, "temperal_downsample": [True, False, True]}])
def test_decode_is_bit_equal_to_diffusers_however_it_is_cut(sizes: list[int], stage_facts: dict[str, object]) -> None:
    ours, oracle = make_pair(**stage_facts)
    with torch.no_grad():
        expected = oracle.decode(LATENTS).sample
    state, reference = ours.new_decode_state(batch=2), ours.new_decode_state(batch=2)
    assert torch.equal(decode_in(ours, LATENTS, sizes, state), expected)
    decode_in(ours, LATENTS, [1] * 6, reference)
    assert state == reference
    assert state.latent_frames == 6


@pytest.mark.parametrize("latents_per_call", [2, 3, 6])
def test_several_latents_per_call_agree_within_rounding(latents_per_call: int) -> None:
    ours, oracle = make_pair()
    with torch.no_grad():
        expected = oracle.decode(LATENTS).sample
    state, reference = ours.new_decode_state(batch=2), ours.new_decode_state(batch=2)
    decode_in(ours, LATENTS, [6], reference)
    ours.latents_per_call = latents_per_call
    torch.testing.assert_close(decode_in(ours, LATENTS, [6], state), expected, atol=1e-5, rtol=0)
    for mine, theirs in zip(state.tiles[0], reference.tiles[0], strict=True):
        assert (mine - theirs).abs().max() <= 2e-6 * max(theirs.abs().max(), 1)


@pytest.mark.parametrize("sizes", [[1, 4, 4, 4], [13], [5, 8]])
def test_encode_is_bit_equal_to_diffusers_however_it_is_cut(sizes: list[int]) -> None:
    ours, oracle = make_pair()
    with torch.no_grad():
        expected = oracle.encode(VIDEO).latent_dist
    state = ours.new_encode_state(batch=2)
    means, logvars = zip(*[ours.encode(part, state) for part in VIDEO.split(sizes, dim=2)], strict=True)
    assert torch.equal(torch.cat(means, dim=2), expected.mean)
    assert torch.equal(torch.cat(logvars, dim=2), expected.logvar)
    assert state.latent_frames == 4


@pytest.mark.parametrize("pause", [1, 2, 4])
def test_a_stored_state_goes_on_as_if_nothing_happened(pause: int) -> None:
    ours, _ = make_pair()
    expected = decode_in(ours, LATENTS, [6])
    state = ours.new_decode_state(batch=2)
    start = ours.decode(LATENTS[:, :, :pause], state)
    copy, stored = state.clone(), state.to_bytes()
    ours.decode(torch.randn_like(LATENTS), state)
    loaded = DecodeState.from_bytes(stored)
    assert loaded == copy
    assert loaded != state
    assert {slot.data_ptr() for slot in copy.tiles[0]}.isdisjoint(slot.data_ptr() for slot in copy.clone().tiles[0])
    for resumed in (copy, loaded):
        rest = ours.decode(LATENTS[:, :, pause:], resumed)
        assert torch.equal(torch.cat([start, rest], dim=2), expected)


def test_a_stored_encode_state_goes_on() -> None:
    ours, _ = make_pair()
    state = ours.new_encode_state(batch=2)
    ours.encode(VIDEO[:, :, :5], state)
    loaded = EncodeState.from_bytes(state.to_bytes())
    assert loaded == state
    expected, _ = ours.encode(VIDEO[:, :, 5:], state)
    assert torch.equal(ours.encode(VIDEO[:, :, 5:], loaded)[0], expected)


def test_a_fresh_state_survives_storage_and_weighs_nothing() -> None:
    state = DecodeState(batch=3)
    assert DecodeState.from_bytes(state.to_bytes()) == state
    assert state.nbytes == 0


def test_nbytes_counts_two_frames_a_causal_layer() -> None:
    ours, _ = make_pair(dim_mult=[1], temperal_downsample=[], scale_factor_spatial=1, scale_factor_temporal=1)
    state = ours.new_decode_state()
    ours.decode(LATENTS[:1], state)
    # conv_in 16 channels, the two middle blocks and the two of the stage 2x8 each, the head 8: 88 channels of 4x5.
    assert state.nbytes == (16 + 4 * 16 + 8) * 2 * 4 * 5 * 4
    assert len(state.to_bytes()) > state.nbytes


def test_bytes_of_the_other_direction_or_damaged_bytes_are_refused() -> None:
    data = DecodeState().to_bytes()
    with pytest.raises(ValueError, match="decode state of version 2, wanted encode"):
        EncodeState.from_bytes(data)
    for damaged in (b"", data[:-3], b"\0" * 40):
        with pytest.raises(ValueError, match="do not hold a VAE state"):
            DecodeState.from_bytes(damaged)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 16, 1, 4, 5), "B=2"), ((2, 16, 1, 4, 6), "began with"), ((2, 16, 0, 4, 5), "0 frames")],
)
def test_latents_that_do_not_go_on_are_refused_and_leave_the_state(shape: tuple[int, ...], message: str) -> None:
    ours, _ = make_pair()
    state = ours.new_decode_state(batch=2)
    ours.decode(LATENTS[:, :, :2], state)
    before = state.clone()
    with pytest.raises(SizeError, match=message):
        ours.decode(torch.zeros(shape), state)
    assert state == before


@pytest.mark.parametrize(
    ("frames", "ratio", "most", "begun", "sizes"),
    [
        (5, 1, 1, False, [1, 1, 1, 1, 1]),
        (5, 1, 2, True, [2, 2, 1]),
        (13, 4, 1, False, [1, 4, 4, 4]),
        (13, 4, 3, False, [9, 4]),
        (12, 4, 2, True, [8, 4]),
    ],
)
def test_calls_hold_at_most_the_asked_number_of_latents(
    frames: int, ratio: int, most: int, sizes: list[int], *, begun: bool
) -> None:
    assert call_sizes(frames, ratio, most, begun=begun) == sizes


def test_encode_refuses_part_of_a_group() -> None:
    ours, _ = make_pair()
    state = ours.new_encode_state(batch=2)
    with pytest.raises(SizeError, match="1, 5"):
        ours.encode(VIDEO[:, :, :2], state)
    ours.encode(VIDEO[:, :, :1], state)
    with pytest.raises(SizeError, match="4, 8"):
        ours.encode(VIDEO[:, :, :5], state)
