"""What a prompt or an image leaves in the transformer: cross-attention keys and values of every layer.

Shape suffixes: B batch, K context tokens, N heads, D head width, C channels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from reelray.kernels.attention.api import attend


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossContext:
    """Keys and values of one cross-attention source, computed once and read in every denoise step.

    Args:
        keys: One [B, K, N, D] tensor per layer, RMS-normed.
        values: One [B, K, N, D] tensor per layer.
        bias: [B, K], added to the scores of each key, in the dtype of the keys: log of how many equal tokens it stands
            for, minus infinity for a slot that this row does not use. None means zero everywhere.
        first_layer: Layer of the first tensors, where others are elsewhere.
        unmerged: The same text with each slot of its padding by itself, where that was kept.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    bias: Tensor | None = None
    first_layer: int = 0
    unmerged: "CrossContext | None" = None

    def __post_init__(self) -> None:
        if not self.keys or len(self.keys) != len(self.values):
            raise ValueError(f"{len(self.keys)} layers of keys, {len(self.values)} of values; give one each per layer")

    @property
    def batch(self) -> int:
        """Rows."""
        return self.keys[0].shape[0]

    @property
    def tokens(self) -> int:
        """Keys per row."""
        return self.keys[0].shape[1]

    def of_layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer of the model."""
        return self.keys[layer - self.first_layer], self.values[layer - self.first_layer]

    def attend(self, q_BSND: Tensor, layer: int) -> Tensor:
        """Mix the values of a layer of the model by queries; returns [B, S, N, D]."""
        return attend(q_BSND, *self.of_layer(layer), bias_BK=self.bias)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Keys, values and, if there is one, the bias."""
        return (*self.keys, *self.values, *(() if self.bias is None else (self.bias,)))

    def holding(self, tensors: Sequence[Tensor]) -> "CrossContext":
        """The same context with other `tensors`, in their order."""
        layers = len(self.keys)
        keys, values, bias = tensors[:layers], tensors[layers : 2 * layers], tensors[2 * layers :]
        return replace(self, keys=tuple(keys), values=tuple(values), bias=bias[0] if bias else None, unmerged=None)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        if self.unmerged is not None:
            return self.unmerged.nbytes
        return sum(part.nbytes for part in (*self.keys, *self.values))


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextRows:
    """Contexts of a batch in which each row attends its own, as long as it is: nothing is copied, nothing padded.

    Args:
        contexts: One of each row, of one row each.
    """

    contexts: tuple[CrossContext, ...]

    def attend(self, q_BSND: Tensor, layer: int) -> Tensor:
        """See `CrossContext`."""
        rows = zip(self.contexts, torch.split(q_BSND, 1), strict=True)
        return torch.cat([context.attend(q_1SND, layer) for context, q_1SND in rows])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Those of all rows, in order."""
        return tuple(tensor for context in self.contexts for tensor in context.tensors)

    def holding(self, tensors: Sequence[Tensor]) -> "ContextRows":
        """See `CrossContext`."""
        contexts = []
        for context in self.contexts:
            count = len(context.tensors)
            contexts.append(context.holding(tensors[:count]))
            tensors = tensors[count:]
        return ContextRows(contexts=tuple(contexts))


Context: TypeAlias = CrossContext | ContextRows
TextContext: TypeAlias = CrossContext
ImageContext: TypeAlias = CrossContext


def stack_contexts(contexts: Sequence[CrossContext]) -> CrossContext:
    """Put contexts of several requests into one batch; shorter ones get slots that nobody attends.

    Args:
        contexts: At least one, all of the same model.
    """
    if len(contexts) == 1:
        return contexts[0]
    tokens = max(context.tokens for context in contexts)
    layers = range(len(contexts[0].keys))
    bias_BK = None
    if any(context.bias is not None or context.tokens < tokens for context in contexts):
        bias_BK = torch.cat([_pad_bias(context, tokens) for context in contexts])
    return CrossContext(
        keys=tuple(torch.cat([_pad_tokens(c.keys[layer], tokens) for c in contexts]) for layer in layers),
        values=tuple(torch.cat([_pad_tokens(c.values[layer], tokens) for c in contexts]) for layer in layers),
        bias=bias_BK,
        first_layer=contexts[0].first_layer,
    )


def pad_context(context: CrossContext, multiple: int) -> CrossContext:
    """Fill up to a multiple of so many keys with slots that nobody attends; other prompts then look alike."""
    tokens = -(-context.tokens // multiple) * multiple
    if tokens == context.tokens:
        return context
    return replace(
        context,
        keys=tuple(_pad_tokens(keys_BKND, tokens) for keys_BKND in context.keys),
        values=tuple(_pad_tokens(values_BKND, tokens) for values_BKND in context.values),
        bias=_pad_bias(context, tokens),
        unmerged=None,
    )


def mean_of_slots(keys_BKND: Tensor, bias_BK: Tensor | None) -> Tensor:
    """Mean [B, N, D] over all slots of a prompt, float32.

    Args:
        keys_BKND: Of the slots that are kept.
        bias_BK: Log of how many slots each stands for; None means one.
    """
    if bias_BK is None:
        return keys_BKND.float().mean(1)
    counts_BK = bias_BK.float().exp()
    return torch.einsum("bk,bknd->bnd", counts_BK / counts_BK.sum(1, keepdim=True), keys_BKND.float())


def _pad_tokens(tokens_BKND: Tensor, count: int) -> Tensor:
    return F.pad(tokens_BKND, (0, 0, 0, 0, 0, count - tokens_BKND.shape[1]))


def _pad_bias(context: CrossContext, count: int) -> Tensor:
    bias_BK = context.bias
    if bias_BK is None:
        bias_BK = context.keys[0].new_zeros(context.batch, context.tokens)
    return F.pad(bias_BK, (0, count - context.tokens), value=-math.inf)


def merge_context(context: CrossContext, embeddings_BKC: Tensor) -> CrossContext:
    """Merge the padding of a prompt whose slots have keys and values each; both stay at hand.

    Args:
        context: Of all slots.
        embeddings_BKC: Its text embeddings, as for `merge_zero_tokens`.
    """
    kept_BKC, bias_BK = merge_zero_tokens(embeddings_BKC)
    if bias_BK is None:
        return context
    kept = kept_BKC.shape[1]
    return replace(
        context,
        keys=tuple(keys_BKND[:, :kept] for keys_BKND in context.keys),
        values=tuple(values_BKND[:, :kept] for values_BKND in context.values),
        bias=bias_BK,
        unmerged=context,
    )


def merge_zero_tokens(embeddings_BKC: Tensor) -> tuple[Tensor, Tensor | None]:
    """Keep one token (in half precision up to four) of the zero rows at the end of each prompt, with a log-count bias.

    All zero rows have equal keys and values, and a sum of n equal exponentials is one exponential of a score raised by
    log n, so cross-attention gives the same result from far fewer keys. In half precision log n is not exact; a few
    tokens whose rounded biases add up to n are. This reads values on the host.

    Args:
        embeddings_BKC: Text embeddings in the model's dtype, zero after the last real token.

    Returns:
        The kept embeddings [B, K', C] and their bias [B, K'], None when nothing was merged.
    """
    slots = embeddings_BKC.shape[1]
    used_BK = embeddings_BKC.detach().ne(0).any(-1)
    last_B = torch.where(used_BK.any(1), slots - used_BK.flip(1).int().argmax(1), 0)
    rows = [[0.0] * real + padding_biases(slots - real, embeddings_BKC.dtype) for real in last_B.tolist()]
    kept = max(len(row) for row in rows)
    if kept == slots:
        return embeddings_BKC, None
    padded = [row + [-math.inf] * (kept - len(row)) for row in rows]
    return embeddings_BKC[:, :kept], torch.tensor(padded, dtype=embeddings_BKC.dtype, device=embeddings_BKC.device)


def padding_biases(count: int, dtype: torch.dtype) -> list[float]:
    """Find biases, exact in `dtype`, whose exponentials add up to `count` within 1e-6 of it.

    Args:
        count: Equal tokens to stand for, 0 or more.
        dtype: Dtype the biases will have.

    Returns:
        At most four values; none for a count of 0.
    """
    biases: list[float] = []
    missing = float(count)
    while missing > 1e-6 * count and len(biases) < 4:
        bias = torch.tensor(math.log(missing), dtype=torch.float64).to(dtype)
        if bias.double().exp() > missing * (1 + 1e-6):
            bias = torch.nextafter(bias, torch.tensor(-math.inf, dtype=dtype))
        biases.append(bias.item())
        missing -= math.exp(biases[-1])
    return biases
