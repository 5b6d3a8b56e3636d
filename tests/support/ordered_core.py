"""Attention that depends on the order of the tokens: each third of a shuffled window attends itself."""

import torch
from torch.nn.functional import scaled_dot_product_attention

from reelray.kernels.attention.reference import attend_reference


class Shuffle:
    """Implements `TokenOrder`."""

    def __init__(self, tokens):
        self.places = tokens
        self.permutation = torch.randperm(tokens, generator=torch.Generator().manual_seed(3))

    def take(self, tokens_BSC):
        return tokens_BSC[:, self.permutation.to(tokens_BSC.device)]

    def join(self, laid_BPC):
        return laid_BPC[:, self.permutation.argsort().to(laid_BPC.device)]


class Thirds:
    """Implements `Core`."""

    def __init__(self, tokens):
        self.order = Shuffle(tokens)
        self.heads = set()

    def __call__(self, q_BSND, k_BSND, v_BSND, *, heads, **_):
        assert q_BSND.shape[1] == k_BSND.shape[1] == self.order.places
        assert len(heads) == q_BSND.shape[2]
        self.heads.add(heads)
        thirds = [torch.tensor_split(part_BSND, 3, dim=1) for part_BSND in (q_BSND, k_BSND, v_BSND)]
        return torch.cat([attend_reference(*third) for third in zip(*thirds, strict=True)], dim=1)


class ThirdsInPlace:
    """Implements `AttentionOp`: the same by a mask over tokens that lie as they are."""

    rotates, repeats = False, True

    def __init__(self, tokens):
        places = torch.tensor_split(torch.arange(tokens), 3)
        third_of_slot = torch.cat([torch.full_like(part, number) for number, part in enumerate(places)])
        third_of_token = third_of_slot[Shuffle(tokens).permutation.argsort()]
        self.mask = third_of_token[:, None] == third_of_token

    def __call__(self, q_BSND, k_BSND, v_BSND, **_):
        heads = (part_BSND.transpose(1, 2) for part_BSND in (q_BSND, k_BSND, v_BSND))
        return scaled_dot_product_attention(*heads, attn_mask=self.mask.to(q_BSND.device)).transpose(1, 2)
