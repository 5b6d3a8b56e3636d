"""Opens the sparse attention of a request, or says why there is none."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reelray.proto.request import RenderRequest
from reelray.proto.sparsity import SparsityPolicy, SparsityUse
from reelray.workers.acceleration.sparsity.break_even import find_break_even, why_dense
from reelray.workers.acceleration.sparsity.orders import make_order
from reelray.workers.acceleration.sparsity.routers import make_router
from reelray.workers.acceleration.sparsity.windows import SparseWindows
from reelray.workers.models.attention_op import View
from reelray.workers.samplers.guidance import Branch

if TYPE_CHECKING:
    from reelray.workers.engine.window_input import WindowInput
    from reelray.workers.models.api import VideoModel


@dataclass(kw_only=True, eq=False)
class SparseRequest:
    """What a request's windows attend, and how much of it was left out.

    Args:
        request: Whose; has a policy.
        model: What attends.
    """

    request: RenderRequest
    model: "VideoModel"
    _windows: SparseWindows | None = field(default=None, init=False)
    _refusal: str | None = field(default=None, init=False)  # None until it was looked at
    _dense: int = field(default=0, init=False)

    @property
    def policy(self) -> SparsityPolicy:
        """What may be left out."""
        assert self.request.sparsity is not None
        return self.request.sparsity

    def view(self, window: "WindowInput", branch: Branch) -> View | None:
        """What a forward attends; None where all of it is dense."""
        if self._refusal is None:
            self._open(window.length)
        is_even = len(set(window.timesteps)) == 1
        view = self._windows.view(window.timesteps[0], branch) if self._windows is not None and is_even else None
        if view is None:
            self._dense += self.model.key_shape(1).layers
        return view

    def take_use(self) -> SparsityUse:
        """What was left out since the last time; waits for the device."""
        use = SparsityUse(calls=self._dense, dense=self._dense, refusal=self._refusal or "")
        self._dense = 0
        return use if self._windows is None else use + self._windows.take_use()

    def _open(self, frames: int) -> None:
        facts, request, device = self.model.facts, self.request, self.model.device
        rows, columns = facts.latent_size(request.width, request.height)
        _, patch_rows, patch_columns = facts.patch
        grid = (frames, rows // patch_rows, columns // patch_columns)
        width = self.model.key_shape(1).width
        self._refusal = why_dense(self.policy, grid, device=device, dtype=self.model.dtype, width=width)
        if self._refusal:
            return
        order = make_order(self.policy.token_order, grid, self.policy.rows).to(device)
        shift = request.recipe.schedule.shift
        pays = 1.0 if self.policy.forced else find_break_even(grid, device) or 0.0
        router = make_router(self.policy)
        self._windows = SparseWindows(policy=self.policy, router=router, order=order, shift=shift, pays_below=pays)


def open_sparse(request: RenderRequest, model: "VideoModel") -> SparseRequest | None:
    """What a request's windows attend; None where that is everything."""
    return None if request.sparsity is None else SparseRequest(request=request, model=model)
