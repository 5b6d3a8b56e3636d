"""Files in the layout of `taew2_1` with weights drawn at random, and their decoder as one plain function."""

import torch
from torch import Tensor
from torch.nn import functional as F

SMALL = (24, 16, 8, 8)
RATES = (1, 2, 2)
BLOCK_LAYERS = ((3, 4, 5), (9, 10, 11), (15, 16, 17))
GROW_LAYERS = (7, 13, 19)


def draw_state(*, widths=SMALL, latent_channels=16, seed=0, rates=RATES, encoder=True) -> dict[str, Tensor]:
    """Every tensor of a file."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        fan_in = shape[1] * shape[2] * shape[3] if len(shape) == 4 else 8
        return torch.randn(shape, generator=generator) * (1.4 / fan_in**0.5)

    state = {"decoder.1.weight": draw(widths[0], latent_channels, 3, 3), "decoder.1.bias": draw(widths[0])}
    for stage, (blocks, grow) in enumerate(zip(BLOCK_LAYERS, GROW_LAYERS, strict=True)):
        width, narrow = widths[stage], widths[stage + 1]
        for layer in blocks:
            for index, inner in (("0", 2 * width), ("2", width), ("4", width)):
                state[f"decoder.{layer}.conv.{index}.weight"] = draw(width, inner, 3, 3)
                state[f"decoder.{layer}.conv.{index}.bias"] = draw(width)
        state[f"decoder.{grow}.conv.weight"] = draw(rates[stage] * width, width, 1, 1)
        state[f"decoder.{grow + 1}.weight"] = draw(narrow, width, 3, 3)
    # What a random network makes grows from block to block; pictures shall not be cut off at black and white.
    state |= {"decoder.22.weight": 0.004 * draw(3, widths[3], 3, 3), "decoder.22.bias": torch.full((3,), 0.5)}
    return state | ({"encoder.0.weight": draw(64, 3, 3, 3), "encoder.0.bias": draw(64)} if encoder else {})


def decode_whole(state: dict[str, Tensor], latents_CTHW: Tensor) -> Tensor:
    """All pixel frames of a clip, (F, 3, H, W) in [0, 1]: every layer over all frames, by the files' own names."""

    def conv(x, name, padding=1):
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), padding=padding)

    x = torch.stack([3 * torch.tanh(latents_CTHW[:, t] / 3) for t in range(latents_CTHW.shape[1])])
    x = conv(x, "decoder.1").relu()
    for blocks, grow in zip(BLOCK_LAYERS, GROW_LAYERS, strict=True):
        for layer in blocks:
            before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
            inner = conv(torch.cat([x, before], 1), f"decoder.{layer}.conv.0").relu()
            inner = conv(inner, f"decoder.{layer}.conv.2").relu()
            x = (conv(inner, f"decoder.{layer}.conv.4") + x).relu()
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        weight = state[f"decoder.{grow}.conv.weight"]
        parts = F.conv2d(x, weight).split(x.shape[1], dim=1)
        x = torch.stack(parts, dim=1).flatten(0, 1)
        x = conv(x, f"decoder.{grow + 1}")
    return conv(x.relu(), "decoder.22").clamp(0, 1)[3:]
