import pytest
import torch
from torch._dynamo.testing import CompileCounter

from reelray.workers.models.wan.vae import DecodeState
from reelray.workers.models.wan.vae.resample import upsample_by_subpixels
from tests.workers.models.wan.vae.oracle import make_pair

LATENTS = torch.randn(1, 16, 5, 4, 6, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("subpixel", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06)])
def test_inference_arithmetic_agrees_with_the_exact_one(
    dtype: torch.dtype, tolerance: float, *, subpixel: bool
) -> None:
    ours, oracle = make_pair()
    with torch.no_grad():
        expected = oracle.decode(LATENTS).sample
    ours.to_inference("cpu", dtype, subpixel=subpixel)
    video = ours.decode(LATENTS, ours.new_decode_state())
    assert video.dtype == dtype
    torch.testing.assert_close(video.float(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inference_gives_the_same_bits_for_every_cut_and_through_storage(dtype: torch.dtype) -> None:
    ours, _ = make_pair()
    ours.to_inference("cpu", dtype)
    expected = ours.decode(LATENTS, ours.new_decode_state())
    state = ours.new_decode_state()
    start = ours.decode(LATENTS[:, :, :2], state)
    stored = DecodeState.from_bytes(state.to_bytes())
    assert [slot.stride() for slot in stored.tiles[0]] == [slot.stride() for slot in state.tiles[0]]
    rest = ours.decode(LATENTS[:, :, 2:], stored)
    assert torch.equal(torch.cat([start, rest], dim=2), expected)


def test_latent_statistics_stay_exact_in_bf16() -> None:
    ours, _ = make_pair()
    ours.to_inference("cpu", torch.bfloat16)
    assert ours.latents_mean.flatten().tolist() == pytest.approx(list(ours.config.latents_mean), abs=1e-7)


def test_subpixel_upsampling_is_nearest_then_3x3() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 3, 4, 5), torch.randn(6, 3, 3, 3), torch.randn(6)
    large = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = torch.nn.functional.conv2d(large, weight, bias, padding=1)
    torch.testing.assert_close(upsample_by_subpixels(x, weight, bias), expected, atol=1e-5, rtol=0)


def test_steps_trace_into_one_graph_each_and_a_steady_stream_compiles_once() -> None:
    ours, _ = make_pair()
    expected = ours.decode(LATENTS, ours.new_decode_state())
    counter = CompileCounter()
    for name in ("decode_first", "decode_step"):
        setattr(ours, name, torch.compile(getattr(ours, name), fullgraph=True, dynamic=False, backend=counter))
    video = ours.decode(LATENTS, ours.new_decode_state())
    assert torch.equal(video, expected)
    assert counter.frame_count == 2
