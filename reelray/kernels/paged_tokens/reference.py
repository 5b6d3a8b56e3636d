"""The copies in plain torch.

Shape suffixes: P pages, Q pages in the order of their frames, L layers, 2 keys and values, R rows of a page, S tokens,
N heads, D head width.
"""

import torch
from torch import Tensor

from reelray.kernels.norm_rope.reference import rotate


def lay_out(
    pages_PL2RND: Tensor, places_Q: Tensor, to_L2SND: Tensor, cos_SP: Tensor, sin_SP: Tensor, *, tokens: int
) -> None:
    """Copy frames out of pages and rotate their keys.

    Args:
        pages_PL2RND: All pages.
        places_Q: Which of them, frame by frame.
        to_L2SND: Is overwritten; as many tokens as the frames have.
        cos_SP: Cosines of the tokens' angles, float32.
        sin_SP: Sines of them.
        tokens: Of a frame.
    """
    rows, frames = pages_PL2RND.shape[3], to_L2SND.shape[2] // tokens
    for layer in range(len(to_L2SND)):
        picked_Q2RND = pages_PL2RND[:, layer].index_select(0, places_Q)
        keys_SND, values_SND = (
            torch.unflatten(part_QRND.flatten(0, 1), 0, (frames, -(-tokens // rows) * rows))[:, :tokens].flatten(0, 1)
            for part_QRND in picked_Q2RND.unbind(1)
        )
        to_L2SND[layer, 0].copy_(rotate(keys_SND[None], cos_SP[None], sin_SP[None])[0])
        to_L2SND[layer, 1].copy_(values_SND)


def take_in(room_L2SND: Tensor, pages_PL2RND: Tensor, places_Q: Tensor, *, tokens: int) -> None:
    """Copy frames into pages.

    Args:
        room_L2SND: Tokens of the frames.
        pages_PL2RND: All pages; rows beyond a frame's last token may be left as they are.
        places_Q: Which of them, frame by frame.
        tokens: Of a frame.
    """
    rows, frames = pages_PL2RND.shape[3], room_L2SND.shape[2] // tokens
    for frame in range(frames):
        for number, first in enumerate(range(0, tokens, rows)):
            place = int(places_Q[frame * -(-tokens // rows) + number])
            count = min(rows, tokens - first)
            begin = frame * tokens + first
            pages_PL2RND[place, :, :, :count].copy_(room_L2SND[:, :, begin : begin + count])
