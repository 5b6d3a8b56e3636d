"""The small text encoder and the transformer, trained as one module.

Shape suffixes: B batch, K text slots, N heads, C channels, T latent frames, H/W latent height/width.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.text_context import TextContext, padding_biases
from reelray.workers.models.wan.transformer import WanTransformer
from reelray.workers.models.wan.umt5 import Umt5Block, Umt5Config, Umt5Encoder, find_buckets

TEXT_TOKENS, WORD_SLOTS = 512, 28
NEIGHBOURS, NEIGHBOUR_BIAS = (-1, 1, -2, 2, -3, 3), 4.0
TEXT_PREFIX = "text_encoder"
# Not the text encoder: T5 does not scale its scores, so its queries begin small, and Muon moves every matrix by the
# same norm however small it is. Its attention became one-hot, and captions bags of words.
MUON_PREFIXES = ("transformer.blocks", "transformer.condition_embedder.text_embedder")


def sprites_text_config(vocabulary: int) -> Umt5Config:
    """Sizes of the shipped text encoder: wide enough to bind colour, shape and motion of two sprites."""
    return Umt5Config(vocab_size=vocabulary, d_model=192, d_kv=32, num_heads=6, d_ff=384, num_layers=4)


def sprites_transformer_config() -> WanConfig:
    """Sizes of the shipped transformer."""
    return WanConfig(num_attention_heads=4, attention_head_dim=64, text_dim=192, ffn_dim=1024, num_layers=8)


class SpritesModel(nn.Module):
    """Text encoder and transformer.

    Args:
        text: Sizes of the text encoder.
        transformer: Sizes of the transformer; its text width is the encoder's.
    """

    bias: Tensor
    buckets: Tensor

    def __init__(self, text: Umt5Config, transformer: WanConfig) -> None:
        super().__init__()
        self.text_encoder = Umt5Encoder(text)
        initialise_text(self.text_encoder)
        self.transformer = WanTransformer(transformer)
        biases = padding_biases(TEXT_TOKENS - WORD_SLOTS, torch.bfloat16)
        self.register_buffer("bias", torch.tensor([0.0] * WORD_SLOTS + biases), persistent=False)
        self.register_buffer("buckets", find_buckets(WORD_SLOTS, text), persistent=False)

    @classmethod
    def shipped(cls, vocabulary: int) -> "SpritesModel":
        """The model as it is shipped, freshly initialised."""
        return cls(sprites_text_config(vocabulary), sprites_transformer_config())

    def embed(self, ids_BK: Tensor) -> Tensor:
        """Text embeddings [B, WORD_SLOTS, C], zero behind the last token."""
        encoder, is_word_BK = self.text_encoder, ids_BK != 0
        hidden_BKC = encoder.embedding(ids_BK)
        for block in encoder.blocks:
            assert isinstance(block, Umt5Block)
            hidden_BKC = _run_padded(block, hidden_BKC, self.buckets, is_word_BK)
        normed_BKC: Tensor = encoder.norm(hidden_BKC)
        return normed_BKC * is_word_BK[..., None]

    def forward(self, embeddings_BKC: Tensor, latents_BCTHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Predict the flow, float32."""
        prediction: Tensor = self.transformer(latents_BCTHW, timestep_B, self.read(embeddings_BKC))
        return prediction.float()

    def read(self, embeddings_BKC: Tensor) -> TextContext:
        """Keys and values of prompts; the zero slots up to 512 are folded into a few biased ones."""
        padded_BKC = F.pad(embeddings_BKC, (0, 0, 0, len(self.bias) - WORD_SLOTS))
        text = self.transformer.prepare_text(padded_BKC, merge_padding=False)
        return replace(text, bias=self.bias.expand(len(padded_BKC), -1))


def _run_padded(block: Umt5Block, x_BKC: Tensor, buckets_KK: Tensor, is_word_BK: Tensor) -> Tensor:
    """The block of `Umt5Encoder` on padded rows: nobody attends padding."""
    normed_BKC = block.attention_norm(x_BKC)
    q, k, v = (
        linear(normed_BKC).unflatten(-1, (block.heads, -1)).transpose(1, 2) for linear in (block.q, block.k, block.v)
    )
    bias_NKK = block.position_bias(buckets_KK).permute(2, 0, 1)
    # Plain products: 28 x 28 scores are nothing, and inductor fuses them with their neighbours.
    scores_BNKK = (q @ k.mT).float() + bias_NKK.float()
    scores_BNKK = scores_BNKK.masked_fill(~is_word_BK[:, None, None], -1e9)
    mixed = (scores_BNKK.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)
    x_BKC = x_BKC + block.o(mixed)
    normed_BKC = block.feed_norm(x_BKC)
    fed_BKC: Tensor = block.down(F.gelu(block.gate(normed_BKC), approximate="tanh") * block.up(normed_BKC))
    return x_BKC + fed_BKC


@torch.no_grad()
def initialise_text(encoder: Umt5Encoder) -> None:
    """Initialise as T5 does, but let heads begin with their eyes on neighbouring words.

    Scores are not divided by the root of the head width, so queries begin smaller. Without the neighbours nothing binds
    a colour to its shape for a long time: see the README.
    """
    width, head = encoder.config.d_model, encoder.config.d_kv
    buckets_KK = find_buckets(WORD_SLOTS, encoder.config)
    middle = WORD_SLOTS // 2
    nn.init.normal_(encoder.embedding.weight)
    for block in encoder.blocks:
        assert isinstance(block, Umt5Block)
        nn.init.normal_(block.q.weight, std=(width * head) ** -0.5)
        nn.init.normal_(block.position_bias.weight, std=width**-0.5)
        for number in range(block.heads):
            offset = NEIGHBOURS[number % len(NEIGHBOURS)]
            block.position_bias.weight[buckets_KK[middle, middle + offset], number] = NEIGHBOUR_BIAS
        for linear in (block.k, block.v, block.gate, block.up, block.o, block.down):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
