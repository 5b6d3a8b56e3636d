"""Self-attention over the tokens of all ranks through xfuser's `USP`, on our process groups.

xfuser keeps its groups in globals of its modules. They are pointed at a lane before each call, so its own start-up,
which makes groups of its own for one layout, is never run. Importing this module does not import xfuser: that takes
seconds and hundreds of megabytes, and works on machines with CUDA only.

Shape suffixes: B batch, S tokens of this rank, N heads, D head width, P rotated pairs of a head.
"""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from reelray.kernels.attention.lse import HALF, attend_with_lse
from reelray.proto.errors import UnsupportedError
from reelray.workers.parallel.mesh import Lane
from reelray.workers.parallel.token_split import TokenSplit

OURS = "reelray"
"""Our kernel's name in xfuser's table of kernels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Xfuser:
    """The modules of xfuser that hold what `USP` works with; see `Xfuser.load`.

    Args:
        usp: Has `USP` and looks up the process groups.
        groups: yunchang's module with those groups.
        degrees: Has the object that says how many ranks each axis has.
        runtime: Has the object that says which options are on.
        kernels: Has the table of attention kernels.
    """

    usp: ModuleType
    groups: ModuleType
    degrees: ModuleType
    runtime: ModuleType
    kernels: ModuleType

    @classmethod
    def load(cls) -> "Xfuser":
        """Import xfuser, add our kernel to its table, and let torch's ring send blocks on instead of gathering all.

        Raises:
            UnsupportedError: There is no CUDA device, or xfuser is not installed.
        """
        if not torch.cuda.is_available():
            raise UnsupportedError("xfuser's attention needs a CUDA device, and this process sees none; use ours")
        return cls.load_unchecked()

    @classmethod
    def load_unchecked(cls) -> "Xfuser":
        """`load`, where whoever calls has made the import possible without a CUDA device."""
        try:
            found = cls(
                usp=import_module("xfuser.model_executor.layers.usp"),
                groups=import_module("yunchang.globals"),
                degrees=import_module("xfuser.core.distributed.parallel_state"),
                runtime=import_module("xfuser.core.distributed.runtime_state"),
                kernels=import_module("xfuser.core.distributed.attention_backend"),
            )
            ring = import_module("torch.distributed.tensor.experimental._attention")
        except ImportError as error:
            raise UnsupportedError(f"xfuser cannot be imported ({error}): pip install 'reelray[gpu]'") from error
        found.kernels.ATTENTION_FUNCTION_REGISTRY[OURS] = _attend
        # The default gathers the keys and values of all ranks at once.
        ring.set_rotate_method("alltoall")
        return found

    def bind(self, lane: Lane) -> None:
        """Point xfuser at the groups of this lane.

        Raises:
            EngineError: The mesh was closed or aborted.
        """
        held = self.groups.PROCESS_GROUP
        held.ULYSSES_PG, held.RING_PG = lane.ulysses.process_group, lane.ring.process_group
        # Without a CUDA device it is None there.
        self.usp.PROCESS_GROUP = held  # type: ignore[attr-defined]
        # xfuser has no public way to take groups that exist.
        self.degrees._SP = SimpleNamespace(  # type: ignore[attr-defined]  # noqa: SLF001
            world_size=lane.sequence.size,
            rank_in_group=lane.sequence.index,
            ulysses_world_size=lane.ulysses.size,
            ulysses_rank=lane.ulysses.index,
            ring_world_size=lane.ring.size,
            ring_rank=lane.ring.index,
        )
        self.runtime._RUNTIME = SimpleNamespace(  # type: ignore[attr-defined]  # noqa: SLF001
            attention_backend=OURS,
            fp8_comms=None,
            runtime_config=SimpleNamespace(use_spargeattn_head_balance=False),
        )

    def pick_kernel(self, q_BSND: Tensor) -> Any:
        """Name of the kernel for such queries. Each gives the logs of its sums, without which a ring is wrong."""
        if q_BSND.is_cuda and q_BSND.dtype in HALF and q_BSND.shape[-1] % 8 == 0:
            return self.kernels.AttentionBackendType.CUDNN
        # xfuser's kernels for float32 give no logs, or more of them than there are queries.
        return OURS


def explain_refusal(split: TokenSplit, heads: int | None = None) -> str | None:
    """Say why `XfuserAttention` cannot give the exact result; None if it can. All ranks get the same answer.

    Ulysses there exchanges equal parts only. Padding is exact where it comes after all tokens, that is where the last
    rank alone is short: its keys are then cut off. A ring has no such cut.

    Args:
        split: Tokens of the window.
        heads: Heads of the model; None asks about the tokens only.
    """
    *others, last = (len(share) for share in split.shares)
    even = not others or set(others) == {last}
    if split.ring > 1 and not even:
        return (
            f"{split.places} tokens of a latent frame are not equal parts of ring={split.ring},ulysses={split.ulysses}"
        )
    if not even and len(set(others)) > 1:
        return f"{split.places} tokens of a latent frame leave more than the last of ulysses={split.ulysses} short"
    if heads is not None and heads % split.ulysses:
        return f"{heads} heads are not a multiple of ulysses={split.ulysses}"
    return None


class XfuserAttention:
    """Implements `AttentionOp` for a lane; all its sequence ranks call it in the same order.

    Tokens are exchanged rank by rank, so keys stand in another order than on one rank; attention without a mask does
    not see their order, and queries return to where they came from. xfuser has one set of groups for the whole
    process, so no two threads may call it at once.

    Args:
        lane: This rank's groups.
        split: Tokens of the window and of this rank.
        xfuser: The imported modules.
        packed: Whether queries, keys and values travel in one exchange instead of three.

    Raises:
        UnsupportedError: The tokens cannot be shared exactly; see `explain_refusal`.
    """

    rotates = False
    repeats = True

    def __init__(self, lane: Lane, split: TokenSplit, xfuser: Xfuser, *, packed: bool = True) -> None:
        _check(split)
        self._lane = lane
        self._split = split
        self._xfuser = xfuser
        self._packed = packed
        self._tokens = split.frames * len(split.shares[split.index])
        self._longest = split.frames * len(split.shares[0])
        uneven = len(split.shares[0]) > len(split.shares[-1])
        self._options = {"valid_kv_len": split.frames * split.places} if uneven else None

    def __call__(
        self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, cos_BSP: Tensor, sin_BSP: Tensor
    ) -> Tensor:
        """Attend the whole window; see `AttentionOp`.

        Raises:
            UnsupportedError: The heads are not a multiple of the ulysses ranks.
        """
        del layer, cos_BSP, sin_BSP
        _check(self._split, q_BSND.shape[2])
        self._xfuser.bind(self._lane)
        missing = self._longest - self._tokens
        parts_BNSD = (F.pad(part, (0, 0, 0, 0, 0, missing)).transpose(1, 2) for part in (q_BSND, k_BSND, v_BSND))
        mixed_BNSD: Tensor = self._xfuser.usp.USP(
            *parts_BNSD,
            combine_qkv_a2a=self._packed,
            backend=self._xfuser.pick_kernel(q_BSND),
            attention_kwargs=self._options,
        )
        return mixed_BNSD.transpose(1, 2)[:, : self._tokens]


def _check(split: TokenSplit, heads: int | None = None) -> None:
    refusal = explain_refusal(split, heads)
    if refusal is not None:
        raise UnsupportedError(f"xfuser cannot attend these tokens exactly: {refusal}; use ours")


def _attend(
    q_BNSD: Tensor, k_BNSD: Tensor, v_BNSD: Tensor, *, dropout_p: float, is_causal: bool, attention_kwargs: Any = None
) -> tuple[Tensor, Tensor]:
    """Our kernel, as xfuser calls one. It is never given dropout or a mask by `XfuserAttention`."""
    assert not dropout_p
    assert not is_causal
    del attention_kwargs
    mixed_BSND, lse_BSN = attend_with_lse(q_BNSD.transpose(1, 2), k_BNSD.transpose(1, 2), v_BNSD.transpose(1, 2))
    return mixed_BSND.transpose(1, 2), lse_BSN.transpose(1, 2)
