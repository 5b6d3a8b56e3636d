"""Whether ranks that only decode help to denoise, by predicted times.

They are asked while nothing is to be decoded, step by step: a whole clip, or the first chunk of a stream, is denoised
by all, and when it is clean they go back to their own work. A later chunk begins while the one before it is decoded;
they may join in the middle of it, which has a price.
"""

from reelray.proto.placement import Lending
from reelray.proto.request import RenderRequest


def pays_to_lend(lending: Lending, request: RenderRequest, *, steps_left: int, joins: bool) -> bool:
    """Decide for one step; the same question has the same answer.

    Args:
        lending: Layout of all ranks, and predicted times.
        request: Whose chunk it is.
        steps_left: Denoise steps until the chunk is clean, this one included.
        joins: Whether the ranks to be lent have to be brought its latents first.
    """
    if request.recipe.memory is not None:
        return False  # they would have to remember what they did not see
    if request.recipe.chunking.stagger is not None:
        return False  # the predicted times are those of one chunk
    if lending.layout.cfg > 1 and not request.recipe.guidance.needs_unconditional:
        return False
    gained_s = steps_left * (lending.apart_step_s - lending.lent_step_s)
    return gained_s > (lending.switch_s if joins else 0.0)
