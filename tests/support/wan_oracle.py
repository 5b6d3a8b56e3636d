"""Random diffusers Wan transformers and their twins of ours."""

import torch
from diffusers import WanTransformer3DModel

from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.key_map import checkpoint_views
from reelray.workers.models.wan.transformer import WanTransformer

TINY = {
    "num_attention_heads": 3,
    "attention_head_dim": 16,
    "text_dim": 24,
    "freq_dim": 32,
    "ffn_dim": 80,
    "num_layers": 3,
    "rope_max_seq_len": 64,
}
TINY_I2V = {**TINY, "in_channels": 36, "image_dim": 20, "added_kv_proj_dim": 48}


def make_oracle(**overrides) -> WanTransformer3DModel:
    torch.manual_seed(0)
    model = WanTransformer3DModel(**{**TINY, **overrides}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Norm gains and biases start at one and zero, which would hide a mistaken name.
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def make_twin(oracle: WanTransformer3DModel) -> WanTransformer:
    twin = WanTransformer(WanConfig.from_diffusers(oracle.config)).eval()
    copy_weights(oracle.state_dict(), twin)
    return twin


def copy_weights(state: dict[str, torch.Tensor], twin: WanTransformer) -> None:
    views = checkpoint_views(twin)
    assert views.keys() == state.keys()
    for name, view in views.items():
        assert view.shape == state[name].shape, name
        view.copy_(state[name])


def draw_inputs(oracle, *, batch=2, size=(3, 6, 10), slots=512, words=(7, 12)):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, oracle.config.in_channels, *size, generator=generator)
    text = torch.randn(batch, slots, oracle.config.text_dim, generator=generator)
    for row in range(batch):
        text[row, words[row % len(words)] :] = 0
    return latents, text
