import pytest
import torch

from reelray.proto.sparsity import OPTIONS, SparseMethod, SparsityPolicy
from reelray.workers.acceleration.sparsity.orders import make_order
from reelray.workers.acceleration.sparsity.router import Scene
from reelray.workers.acceleration.sparsity.routers import ROUTERS, make_router

GRID = (6, 40, 16)


def policy_of(method: SparseMethod, options: dict[str, float] | None = None) -> SparsityPolicy:
    rows = 64 if method is SparseMethod.VSA else 128
    return SparsityPolicy(
        method=method, rows=rows, densities=(0.3,), options=options or {}, neighbours=0, first_frame=False
    )


def lists_of(policy: SparsityPolicy) -> torch.Tensor:
    order = make_order(policy.token_order, GRID, policy.rows)
    scene = Scene.of(order, policy)
    made = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, order.places, 2, 16, generator=made) * 2 for _ in range(3))
    lists = make_router(policy).route(q, k, v, scene, layer=3, heads=range(2))
    lists.check(scene.blocking.keys.count)
    assert int(lists.count_BNQ.min()) > 0
    mask = lists.mask(scene.blocking.keys.count)
    assert mask[:, :, scene.blocking.keep_QG].all()
    return mask


def test_every_method_has_a_router() -> None:
    assert set(ROUTERS) == set(SparseMethod)


@pytest.mark.parametrize("method", list(SparseMethod))
def test_every_method_makes_lists_from_its_policy(method: SparseMethod) -> None:
    mask = lists_of(policy_of(method))
    assert mask.float().mean() > 0


CHANGED = {
    SparseMethod.RADIAL: {"near_frames": 1, "decay": 8},
    SparseMethod.SLIDING_TILE: {"window_columns": 1},
    SparseMethod.FRAME_DIAGONAL: {"reach": 2},
    SparseMethod.STRIPES: {"every": 2},
    SparseMethod.BLOCK_DIAGONAL: {"blocks": 2},
    SparseMethod.SUB_BLOCK: {"parts": 16},
    SparseMethod.SPARGE: {"similarity": 0.05},
    SparseMethod.ANTIDIAGONAL: {"stride": 2},
}


@pytest.mark.parametrize("method", list(CHANGED))
def test_options_reach_the_router(method: SparseMethod) -> None:
    assert set(CHANGED) | {SparseMethod.HEAD_CLASSES} == set(OPTIONS)
    assert not torch.equal(lists_of(policy_of(method)), lists_of(policy_of(method, CHANGED[method])))
