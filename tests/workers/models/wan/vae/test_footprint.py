"""The estimate against the live bytes of a real decode, counted op by op."""

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from reelray.workers.models.wan.vae.footprint import slot_bytes
from tests.workers.models.wan.vae.oracle import make_pair


class LiveBytes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_iter(args) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given | self.seen:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


@pytest.mark.parametrize("facts", [{}, {"dim_mult": [1, 1, 4, 4]}, {"num_res_blocks": 2, "decoder_base_dim": 16}])
@pytest.mark.parametrize(("dtype", "latents_per_call"), [(torch.float32, 1), (torch.bfloat16, 1), (torch.bfloat16, 3)])
def test_estimate_lies_above_the_measured_peak_and_below_twice_it(
    facts: dict[str, Any], dtype: torch.dtype, latents_per_call: int
) -> None:
    ours, _ = make_pair(**facts)
    ours.to_inference("cpu", dtype)
    ours.latents_per_call = latents_per_call
    state = ours.new_decode_state()
    latents = torch.randn(1, 16, 7, 8, 8)
    with LiveBytes() as live:
        ours.decode(latents, state)
    estimate = ours.decode_bytes(64, 64, 7)
    assert live.peak <= estimate <= 2 * live.peak
    assert state.nbytes == slot_bytes(ours.config, 64, 64, itemsize=dtype.itemsize)
