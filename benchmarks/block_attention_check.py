"""Whether attention over block lists is right: sampled blocks against float64, and the same bits in every run."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from reelray.kernels.block_attention.lists import BlockLists

SAMPLES, REPEATS = 24, 5
LOG_LIMIT = 1e-3


def check(
    name: str, run: Callable[[], tuple[Tensor, Tensor]], qkv: tuple[Tensor, ...], lists: BlockLists
) -> dict[str, Any]:
    """Compare sampled blocks of queries with float64, beside torch in the same dtype on the same keys.

    Args:
        name: In the report.
        run: What gives mixed values [1, S, N, D] and logs [1, S, N].
        qkv: Queries [1, S, N, D], keys and values [1, K, N, D] or pages [P, R, N, D].
        lists: What is attended.

    Returns:
        Errors and limits; `red` says that one is exceeded or that runs differ.
    """
    mixed, lse = run()
    q, k, v = qkv
    heads = mixed.shape[2]
    keys = [part[0] if len(part) == 1 else part.flatten(0, 1) for part in (k, v)]
    blocks = lists.count_BNQ.shape[2]
    worst = {"error": 0.0, "limit": 0.0, "mean": 0.0, "mean_limit": 0.0, "log": 0.0}
    for sample in range(SAMPLES):
        # the last block of queries is always among them
        block = blocks - 1 if sample == 0 else sample * 7919 % blocks
        head = sample * 5 % heads
        part = slice(block * lists.query_rows, (block + 1) * lists.query_rows)
        picked = pick(lists, head, block, len(keys[0]))
        few = [one[picked, head] for one in keys]
        wanted, wanted_lse = attend_exactly(q[0, part, head], *few)
        plain = attend_plainly(q[0, part, head], *few)
        found, torchs = (one.double() - wanted for one in (mixed[0, part, head], plain))
        worst["error"] = larger(worst["error"], found.abs().max())
        worst["limit"] = larger(worst["limit"], torchs.abs().max() * 2 + 1e-5)
        worst["mean"] += float(found.abs().mean()) / SAMPLES
        worst["mean_limit"] += float(torchs.abs().mean() * 1.5 + 1e-6) / SAMPLES
        worst["log"] = larger(worst["log"], (lse[0, part, head].double() - wanted_lse).abs().max())
    same = all(bool(torch.equal(again[0], mixed)) and bool(torch.equal(again[1], lse)) for again in _again(run))
    is_right = (
        worst["error"] <= worst["limit"] and worst["mean"] <= worst["mean_limit"] and worst["log"] <= LOG_LIMIT and same
    )
    says = (
        f"error {worst['error']:.1e} of {worst['limit']:.1e}, mean {worst['mean']:.1e} of {worst['mean_limit']:.1e}, "
        f"log {worst['log']:.1e}, {'the same bits' if same else 'OTHER BITS'} in {REPEATS} runs"
    )
    return {"what": name, **worst, "same_bits": same, "red": not is_right, "says": says}


def _again(run: Callable[[], tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    return [run() for _ in range(REPEATS - 1)]


def larger(one: float, two: Tensor) -> float:
    """The larger one; NaN stays NaN."""
    value = float(two)
    return value if value != value or value > one else one  # noqa: PLR0124


def pick(lists: BlockLists, head: int, block: int, keys: int) -> Tensor:
    """Rows of the keys that a block of queries of a head attends."""
    head = head if lists.count_BNQ.shape[1] > 1 else 0
    count = int(lists.count_BNQ[0, head, block])
    index = lists.index_BNQC[0, head, block, :count].long()
    row = torch.arange(lists.key_rows, device=index.device)
    rows = index[:, None] * lists.key_rows + row
    there = rows < keys
    if lists.length_G is not None:
        there &= row < lists.length_G[index][:, None]
    return rows[there]


def attend_exactly(q_SD: Tensor, k_KD: Tensor, v_KD: Tensor) -> tuple[Tensor, Tensor]:
    """Attention in float64, and the logs of its sums."""
    scores = q_SD.double() @ k_KD.double().T * q_SD.shape[-1] ** -0.5
    return scores.softmax(-1) @ v_KD.double(), scores.logsumexp(-1)


def attend_plainly(q_SD: Tensor, k_KD: Tensor, v_KD: Tensor) -> Tensor:
    """Attention by torch in the dtype of the inputs; on CUDA its flash kernel, which rounds weights as ours does."""
    q, k, v = (part[None, None] for part in (q_SD, k_KD, v_KD))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION if q_SD.is_cuda else SDPBackend.MATH):
        mixed: Tensor = scaled_dot_product_attention(q, k, v)
    return mixed[0, 0]
