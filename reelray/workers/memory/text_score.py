"""How well a remembered latent frame fits a prompt, as a layer sees it.

Shape suffixes: L layers, S tokens, N heads, D head width.
"""

import math

from torch import Tensor


class TextScore:
    """Mean over heads, text tokens and tokens of the frame of key of text times key of frame, over sqrt(D).

    A mean of products of sums is the product of the means, head by head. Source: MemFlow.

    Args:
        text_LND: Mean of the prompt's keys over its tokens, in cross-attention, of all heads of the model.
        first_head: Number of the first head whose keys are here; scores are then of these heads alone, and add up to
            those of the model.
    """

    def __init__(self, text_LND: Tensor, *, first_head: int = 0) -> None:
        self._text_LND, self._first_head = text_LND.double(), first_head

    def __call__(self, layer: int, keys_SND: Tensor) -> Tensor:
        """Score a frame by the keys it has in a layer, as attention reads them: rotated."""
        mean_ND = keys_SND.double().mean(0)
        heads, width = mean_ND.shape
        text_ND = self._text_LND[layer, self._first_head : self._first_head + heads]
        return (mean_ND * text_ND).sum() / (self._text_LND.shape[1] * math.sqrt(width))
