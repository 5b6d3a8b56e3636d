"""The one door to attention over lists of blocks: through Triton on CUDA, through torch elsewhere.

Shape suffixes: B batch, S query tokens, K key tokens, N heads, D head width, P pages, R rows of a page.
"""

import importlib.util

import torch
from torch import Tensor

from reelray.kernels.block_attention.lists import BlockLists
from reelray.kernels.block_attention.reference import Seed, attend_blocks_reference

HALF = (torch.bfloat16, torch.float16)
WIDTHS = (64, 128)
"""Head widths of the Triton kernel."""
ALIGNED = 8
"""Elements of a half-precision vector load."""
HAS_TRITON = importlib.util.find_spec("triton") is not None


def attend_blocks(
    q_BSND: Tensor,
    k_BKND: Tensor,
    v_BKND: Tensor,
    lists: BlockLists,
    *,
    seed: Seed | None = None,
    longest: int | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute softmax(q k^T / sqrt(D)) v over the listed keys, and the log of the sums; for inference.

    On CUDA, half precision goes to a kernel of ours, everything else to the formula. An index or a count that is out of
    range makes the whole block of queries NaN; `BlockLists.check` says which it is.

    Args:
        q_BSND: Queries; the last dim must be contiguous.
        k_BKND: Keys, same dtype; B may be 1, shared by all rows, as the rows of a pool of pages are.
        v_BKND: Values, likewise.
        lists: Which blocks of keys each block of queries attends.
        seed: The result over other keys, (mixed [B, S, N, D], logs [B, S, N]), with which sums begin: what comes back
            is then attention over both. Minus infinity in the logs says that there is none.
        longest: About how long the longest lists are, which chooses the launch; what the lists have room for if None.
        splits: Parts of each list that are attended apart and merged, for few blocks of queries over many keys; chosen
            by the number of tiles if None.

    Returns:
        Mixed values in the shape and dtype of `q_BSND`, contiguous, and natural logs [B, S, N] in float32. Where
        nothing is attended, 0 and minus infinity.

    Raises:
        ValueError: Tensors and lists do not belong together, or the kernel does not take them.
    """
    _check_shapes(q_BSND, k_BKND, v_BKND, lists, seed)
    if len(k_BKND) not in {1, len(q_BSND)}:
        raise ValueError(f"keys have {len(k_BKND)} rows; queries have {len(q_BSND)}")
    _check_blocks(lists, -(-k_BKND.shape[1] // lists.key_rows))
    if not _runs_triton(q_BSND):
        return attend_blocks_reference(q_BSND, k_BKND, v_BKND, lists, seed=seed)
    return _call_kernel(q_BSND, k_BKND, v_BKND, lists, seed=seed, longest=longest, splits=splits, paged=False)


def attend_pages(
    q_BSND: Tensor,
    k_PRND: Tensor,
    v_PRND: Tensor,
    lists: BlockLists,
    *,
    seed: Seed | None = None,
    longest: int | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute what `attend_blocks` does over keys and values that lie on pages; a list names pages.

    Args:
        q_BSND: See `attend_blocks`.
        k_PRND: One layer's keys of all pages, shared by all rows; pages may lie apart, as those of a pool with all
            layers on a page do. R is `lists.key_rows`.
        v_PRND: Values, likewise.
        lists: Which pages each block of queries attends; `length_G` says how many rows of a page are there.
        seed: See `attend_blocks`.
        longest: See `attend_blocks`.
        splits: See `attend_blocks`.

    Returns:
        See `attend_blocks`.

    Raises:
        ValueError: See `attend_blocks`.
    """
    _check_shapes(q_BSND, k_PRND, v_PRND, lists, seed)
    if k_PRND.shape[1] != lists.key_rows:
        raise ValueError(f"pages have {k_PRND.shape[1]} rows; blocks of keys have {lists.key_rows}")
    _check_blocks(lists, len(k_PRND))
    if not _runs_triton(q_BSND):
        k_1KND, v_1KND = (part_PRND.flatten(0, 1)[None] for part_PRND in (k_PRND, v_PRND))
        return attend_blocks_reference(q_BSND, k_1KND, v_1KND, lists, seed=seed)
    return _call_kernel(q_BSND, k_PRND, v_PRND, lists, seed=seed, longest=longest, splits=splits, paged=True)


def check_layout(q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor) -> None:
    """Refuse what the Triton kernel cannot read at full width; looks at shapes and strides only.

    Raises:
        ValueError: A head width that the kernel does not have, or tokens that vector loads cannot read.
    """
    if q_BSND.shape[3] not in WIDTHS:
        raise ValueError(f"heads are {q_BSND.shape[3]} wide; the kernel has widths {WIDTHS}")
    for name, part in {"q_BSND": q_BSND, "k_BKND": k_BKND, "v_BKND": v_BKND}.items():
        if part.stride(3) != 1:
            raise ValueError(f"the last dim of {name} must be contiguous; its stride is {part.stride(3)}")
        offsets = (part.storage_offset(), *(part.stride(dim) for dim in range(3) if part.shape[dim] > 1))
        if any(offset % ALIGNED for offset in offsets):
            raise ValueError(
                f"{name} has offset {offsets[0]} and strides {part.stride()}; they must be multiples of {ALIGNED}"
            )


def _check_shapes(q_BSND: Tensor, k_BKND: Tensor, v_BKND: Tensor, lists: BlockLists, seed: Seed | None) -> None:
    batch, tokens, heads, width = q_BSND.shape
    if k_BKND.shape != v_BKND.shape or tuple(k_BKND.shape[2:]) != (heads, width):
        raise ValueError(
            f"queries are {list(q_BSND.shape)}, keys {list(k_BKND.shape)}, values {list(v_BKND.shape)}; they must agree"
        )
    if not q_BSND.dtype == k_BKND.dtype == v_BKND.dtype or not q_BSND.is_floating_point():
        raise ValueError(f"queries, keys and values are {q_BSND.dtype}, {k_BKND.dtype}, {v_BKND.dtype}")
    if not q_BSND.device == k_BKND.device == v_BKND.device == lists.index_BNQC.device:
        raise ValueError(f"tensors are on {q_BSND.device}, {k_BKND.device}, {v_BKND.device}, {lists.index_BNQC.device}")
    blocks = -(-tokens // lists.query_rows)
    rows, list_heads, list_blocks, capacity = lists.index_BNQC.shape
    if rows not in {1, batch} or list_heads not in {1, heads} or list_blocks != blocks:
        raise ValueError(
            f"lists are for {rows} rows, {list_heads} heads, {list_blocks} blocks of queries; there are {batch}, "
            f"{heads}, {blocks}"
        )
    if capacity < 1:
        raise ValueError("lists have no places; they need one more than the longest has entries")
    if seed is None:
        return
    mixed_BSND, lse_BSN = seed
    if mixed_BSND.shape != q_BSND.shape or lse_BSN.shape != q_BSND.shape[:3]:
        raise ValueError(f"the seed is {list(mixed_BSND.shape)} and {list(lse_BSN.shape)} for {list(q_BSND.shape)}")
    if lse_BSN.dtype != torch.float32 or mixed_BSND.dtype not in {torch.float32, q_BSND.dtype}:
        raise ValueError(f"the seed is {mixed_BSND.dtype} and {lse_BSN.dtype}; its logs must be torch.float32")
    if mixed_BSND.stride(3) != 1:
        raise ValueError("the last dim of the seed must be contiguous")


def _check_blocks(lists: BlockLists, blocks: int) -> None:
    if lists.length_G is not None and len(lists.length_G) != blocks:
        raise ValueError(f"length_G is of {len(lists.length_G)} blocks of keys; there are {blocks}")


def _runs_triton(q_BSND: Tensor) -> bool:
    return HAS_TRITON and q_BSND.device.type == "cuda" and q_BSND.dtype in HALF and q_BSND.numel() > 0


def _call_kernel(
    q_BSND: Tensor,
    k_BKND: Tensor,
    v_BKND: Tensor,
    lists: BlockLists,
    *,
    seed: Seed | None,
    longest: int | None,
    splits: int | None,
    paged: bool,
) -> tuple[Tensor, Tensor]:
    check_layout(q_BSND, k_BKND, v_BKND)
    from reelray.kernels.block_attention import launch  # noqa: PLC0415  (triton exists on GPU machines only)

    mixed_BSND, lse_BSN = seed or (None, None)
    found: tuple[Tensor, Tensor] = launch.attend_listed(
        q_BSND,
        k_BKND,
        v_BKND,
        lists.index_BNQC,
        lists.count_BNQ,
        lists.length_G,
        lists.order_BNQ,
        mixed_BSND,
        lse_BSN,
        query_rows=lists.query_rows,
        key_rows=lists.key_rows,
        paged=paged,
        longest=lists.capacity - 1 if longest is None else longest,
        splits=0 if splits is None else splits,
    )
    return found
