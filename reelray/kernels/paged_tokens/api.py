"""Tokens between pages and one tensor: through Triton on CUDA, through torch elsewhere.

Shape suffixes: P pages, Q pages in the order of their frames, L layers, 2 keys and values, R rows of a page, S tokens,
N heads, D head width.
"""

import importlib.util

from torch import Tensor

from reelray.kernels.paged_tokens import reference

HAS_TRITON = importlib.util.find_spec("triton") is not None


def lay_out(
    pages_PL2RND: Tensor, places_Q: Tensor, to_L2SND: Tensor, cos_SP: Tensor, sin_SP: Tensor, *, tokens: int
) -> None:
    """Copy frames out of pages and rotate their keys; see `reference.lay_out`.

    Raises:
        ValueError: Pages, tokens and angles do not belong together.
    """
    _check(pages_PL2RND, places_Q, tokens, to_L2SND)
    if len(cos_SP) != to_L2SND.shape[2] or len(sin_SP) != to_L2SND.shape[2]:
        raise ValueError(f"angles are of {len(cos_SP)} tokens; there are {to_L2SND.shape[2]}")
    if not _runs_triton(pages_PL2RND, to_L2SND):
        reference.lay_out(pages_PL2RND, places_Q, to_L2SND, cos_SP, sin_SP, tokens=tokens)
        return
    from reelray.kernels.paged_tokens import triton as kernels  # noqa: PLC0415  (triton exists on GPU machines only)

    kernels.lay_out(pages_PL2RND, places_Q, to_L2SND, cos_SP, sin_SP, tokens=tokens)


def take_in(room_L2SND: Tensor, pages_PL2RND: Tensor, places_Q: Tensor, *, tokens: int) -> None:
    """Copy frames into pages; see `reference.take_in`.

    Raises:
        ValueError: Pages and tokens do not belong together.
    """
    _check(pages_PL2RND, places_Q, tokens, room_L2SND)
    if not _runs_triton(pages_PL2RND, room_L2SND):
        reference.take_in(room_L2SND, pages_PL2RND, places_Q, tokens=tokens)
        return
    from reelray.kernels.paged_tokens import triton as kernels  # noqa: PLC0415  (triton exists on GPU machines only)

    kernels.take_in(room_L2SND, pages_PL2RND, places_Q, tokens=tokens)


def _check(pages_PL2RND: Tensor, places_Q: Tensor, tokens: int, flat_L2SND: Tensor) -> None:
    _, layers, two, rows, *token = pages_PL2RND.shape
    frames, rest = divmod(flat_L2SND.shape[2], tokens)
    if rest or len(places_Q) != frames * -(-tokens // rows):
        raise ValueError(
            f"{len(places_Q)} pages of {rows} rows do not hold {flat_L2SND.shape[2]} tokens of {tokens} each"
        )
    if (layers, two, *token) != (
        *flat_L2SND.shape[:2],
        *flat_L2SND.shape[3:],
    ) or pages_PL2RND.dtype != flat_L2SND.dtype:
        raise ValueError(f"tokens are {list(flat_L2SND.shape)}, pages {list(pages_PL2RND.shape)}; they must agree")


def _runs_triton(pages_PL2RND: Tensor, flat_L2SND: Tensor) -> bool:
    if not HAS_TRITON or pages_PL2RND.device.type != "cuda" or not flat_L2SND.numel():
        return False
    from reelray.kernels.paged_tokens.triton import has_rows  # noqa: PLC0415  (triton exists on GPU machines only)

    return has_rows(pages_PL2RND) and has_rows(flat_L2SND)
