"""Which checkpoint tensor lies where in the transformer, in diffusers' names."""

from torch import Tensor, nn

FUSED = "attn1.to_qkv."
PARTS = ("attn1.to_q.", "attn1.to_k.", "attn1.to_v.")


def checkpoint_views(transformer: nn.Module) -> dict[str, Tensor]:
    """List every parameter under its diffusers name.

    Fused weights appear as their un-fused rows. The tensors are views: copying into one loads it, reading one saves it.

    Args:
        transformer: A `WanTransformer`.
    """
    views: dict[str, Tensor] = {}
    for name, parameter in transformer.named_parameters():
        if FUSED in name:
            for part, rows in zip(PARTS, parameter.data.chunk(3), strict=True):
                views[name.replace(FUSED, part)] = rows
        else:
            views[name] = parameter.data
    return views
