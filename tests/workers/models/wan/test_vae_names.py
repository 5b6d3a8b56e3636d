"""Names of the original VAE file against diffusers' converter."""

from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

from reelray.workers.models.wan.vae_names import rename_tensor


def list_block(prefix: str, *, shortcut: bool = False) -> list[str]:
    names = [f"{prefix}.residual.{place}.gamma" for place in (0, 3)]
    names += [f"{prefix}.residual.{place}.{kind}" for place in (2, 6) for kind in ("weight", "bias")]
    return names + ([f"{prefix}.shortcut.weight", f"{prefix}.shortcut.bias"] if shortcut else [])


def list_original_names() -> list[str]:
    """Tensor names of the original `WanVAE_`, written down from its module tree."""
    names = [f"{conv}.{kind}" for conv in ("conv1", "conv2") for kind in ("weight", "bias")]
    for side in ("encoder", "decoder"):
        names += [f"{side}.conv1.weight", f"{side}.conv1.bias", f"{side}.head.0.gamma"]
        names += [f"{side}.head.2.weight", f"{side}.head.2.bias", f"{side}.middle.1.norm.gamma"]
        names += [f"{side}.middle.1.{part}.{kind}" for part in ("to_qkv", "proj") for kind in ("weight", "bias")]
        names += list_block(f"{side}.middle.0") + list_block(f"{side}.middle.2")
    for place in (0, 1, 3, 4, 6, 7, 9, 10):
        names += list_block(f"encoder.downsamples.{place}", shortcut=place in {3, 6})
    for place in (2, 5, 8):
        names += [f"encoder.downsamples.{place}.resample.1.{kind}" for kind in ("weight", "bias")]
        if place != 2:
            names += [f"encoder.downsamples.{place}.time_conv.{kind}" for kind in ("weight", "bias")]
    for place in (0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14):
        names += list_block(f"decoder.upsamples.{place}", shortcut=place == 4)
    for place in (3, 7, 11):
        names += [f"decoder.upsamples.{place}.resample.1.{kind}" for kind in ("weight", "bias")]
        if place != 11:
            names += [f"decoder.upsamples.{place}.time_conv.{kind}" for kind in ("weight", "bias")]
    return names


def test_every_original_name_lands_where_diffusers_puts_it() -> None:
    originals = list_original_names()
    theirs = convert_wan_vae_to_diffusers({name: name for name in originals})
    ours = {rename_tensor(name): name for name in originals}
    assert ours == theirs
    small = AutoencoderKLWan(base_dim=8)  # widths differ, names do not
    assert set(ours) == set(small.state_dict())


def test_diffusers_names_stay() -> None:
    for name in AutoencoderKLWan(base_dim=8).state_dict():
        assert rename_tensor(name) == name
