import pytest
import torch

from reelray.proto.errors import SizeError
from reelray.workers.models.wan.vae import WanVae, WanVaeConfig
from tests.workers.models.wan.vae.oracle import make_pair


@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_encode_whole_equals_diffusers(frames: int) -> None:
    ours, oracle = make_pair()
    video = torch.rand(2, 3, frames, 32, 40) * 2 - 1
    with torch.no_grad():
        expected = oracle.encode(video).latent_dist
        mean, logvar = ours.encode_whole(video)
    torch.testing.assert_close(mean, expected.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(logvar, expected.logvar, atol=1e-5, rtol=0)


@pytest.mark.parametrize("latent_frames", [1, 2, 3, 6])
def test_decode_whole_equals_diffusers(latent_frames: int) -> None:
    ours, oracle = make_pair()
    latents = torch.randn(2, 16, latent_frames, 4, 5)
    with torch.no_grad():
        expected = oracle.decode(latents).sample
        video = ours.decode_whole(latents)
    assert video.std() > 0.05
    torch.testing.assert_close(video, expected, atol=1e-5, rtol=0)


def test_channels_last_weights_and_input_give_the_same_video() -> None:
    ours, _ = make_pair()
    latents = torch.randn(1, 16, 3, 4, 5)
    with torch.no_grad():
        expected = ours.decode_whole(latents)
        ours.to_channels_last()
        video = ours.decode_whole(latents.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(video, expected, atol=1e-5, rtol=0)


def test_gradients_reach_every_parameter_under_autocast() -> None:
    ours, _ = make_pair()
    with torch.autocast("cpu", torch.bfloat16):
        mean, logvar = ours.encode_whole(torch.rand(1, 3, 9, 16, 16) * 2 - 1)
        video = ours.decode_whole(mean + logvar, clamp=False)
    video.float().square().mean().backward()
    missing = [name for name, p in ours.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []


def test_unclamped_decode_leaves_the_range() -> None:
    ours, _ = make_pair()
    latents = torch.randn(1, 16, 1, 4, 4)
    with torch.no_grad():
        ours.decoder.conv_out.weight.mul_(10)
        wide, clipped = ours.decode_whole(latents, clamp=False), ours.decode_whole(latents)
    assert wide.abs().max() > 1
    assert torch.equal(clipped, wide.clamp(-1, 1))


def test_normalise_gives_the_channel_statistics_and_back() -> None:
    config = WanVaeConfig(base_dim=8, z_dim=2, dim_mult=(1,), temperal_downsample=(), num_res_blocks=1,
                          latents_mean=(1.0, -2.0), latents_std=(2.0, 4.0))  # fmt: skip
    vae = WanVae(config)
    latents = torch.tensor([3.0, 2.0]).view(1, 2, 1, 1, 1)
    normal = vae.normalise(latents)
    assert normal.flatten().tolist() == [1.0, 1.0]
    assert torch.equal(vae.denormalise(normal), latents)


@pytest.mark.parametrize("shape", [(4, 32, 32), (5, 30, 32), (5, 32, 36)])
def test_sizes_that_do_not_fit_are_refused(shape: tuple[int, int, int]) -> None:
    ours, _ = make_pair()
    with pytest.raises(SizeError, match=r"1, 5, 9|multiples of 8"):
        ours.encode_whole(torch.zeros(1, 3, *shape))
