import pytest
import torch
from torch import Tensor

from reelray.kernels.block_attention.lists import BlockLists
from reelray.workers.acceleration.sparsity.kept_lists import KeptLists
from reelray.workers.acceleration.sparsity.pooled import BLOCK_MEAN
from reelray.workers.acceleration.sparsity.router import Blocking, Scene
from reelray.workers.acceleration.sparsity.tilings import frame_major

HEADS = range(2)


class Counting:
    """Chooses by means and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def route(self, q: Tensor, k: Tensor, v: Tensor, scene: Scene, *, layer: int, heads: range) -> BlockLists:
        self.asked.append(layer)
        return BLOCK_MEAN.route(q, k, v, scene, layer=layer, heads=heads)


def plain() -> Blocking:
    return Blocking.of(frame_major((2, 4, 8), 8), first_frame=False, neighbours=-1)


def scene_of(density: float = 0.5, blocking: Blocking | None = None) -> Scene:
    return Scene(blocking=blocking or plain(), density=density)


def draw(seed: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 64, 2, 8, generator=torch.Generator().manual_seed(seed))


def step(kept: KeptLists, scene: Scene, seed: int, layers: int = 1, batch: int = 1) -> list[BlockLists]:
    x = draw(seed, batch)
    return [kept.route(x, x, x, scene, layer=layer, heads=HEADS) for layer in range(layers)]


def test_lists_are_used_for_as_many_steps_as_are_said_in_each_layer() -> None:
    router, scene = Counting(), scene_of()
    kept = KeptLists(router, refresh=3)
    found = [step(kept, scene, seed, layers=2) for seed in range(7)]
    assert router.asked == [0, 1] * 3  # in steps 0, 3 and 6
    assert found[2][0] is found[0][0]
    assert found[2][1] is not found[2][0]
    assert not torch.equal(found[3][0].index_BNQC, found[0][0].index_BNQC)


def test_refresh_of_one_keeps_nothing() -> None:
    router, scene = Counting(), scene_of()
    kept = KeptLists(router, refresh=1)
    for seed in range(3):
        step(kept, scene, seed)
    assert len(router.asked) == 3


def test_another_window_density_batch_or_prompt_is_chosen_anew() -> None:
    router, scene = Counting(), scene_of()
    kept = KeptLists(router, refresh=100)
    step(kept, scene, 0)
    step(kept, scene_of(), 1)  # the same grid in another window
    assert len(router.asked) == 2
    scene = scene_of(0.25)
    step(kept, scene, 2)
    assert len(router.asked) == 3
    step(kept, scene_of(0.25, scene.blocking), 3)
    assert len(router.asked) == 3
    step(kept, scene_of(0.25, scene.blocking), 3, batch=2)
    assert len(router.asked) == 4
    kept.forget()
    assert kept.held_bytes == 0
    step(kept, scene, 4)
    assert len(router.asked) == 5
    assert kept.held_bytes == 4 * 2 * 8 * (3 + 1)  # 8 lists per head with room for 2 and one more, and their counts


def test_lists_that_lose_their_share_are_chosen_anew() -> None:
    router, scene = Counting(), scene_of()
    kept = KeptLists(router, refresh=100, least_recall=0.9)
    step(kept, scene, 0)
    kept.observe(torch.zeros(1, 64, 2), layer=0, heads=HEADS)
    step(kept, scene, 1)
    kept.observe(torch.full((1, 64, 2), 0.95).log(), layer=0, heads=HEADS)
    step(kept, scene, 2)
    assert len(router.asked) == 1
    lost = torch.zeros(1, 64, 2)
    lost[..., 1] = torch.tensor(0.85).log()  # one head alone
    kept.observe(lost, layer=0, heads=HEADS)
    step(kept, scene, 3)
    assert len(router.asked) == 2
    # What counts now is what the new lists have.
    kept.observe(lost, layer=0, heads=HEADS)
    step(kept, scene, 4)
    assert len(router.asked) == 2


def test_nobody_looks_without_a_least_recall() -> None:
    router, scene = Counting(), scene_of()
    kept = KeptLists(router, refresh=100)
    step(kept, scene, 0)
    for level in (0.0, -50.0):
        kept.observe(torch.full((1, 64, 2), level), layer=0, heads=HEADS)
    step(kept, scene, 1)
    assert len(router.asked) == 1


def test_requests_share_nothing() -> None:
    router, scene = Counting(), scene_of()
    first, second = (KeptLists(router, refresh=100) for _ in range(2))
    step(first, scene, 0)
    step(second, scene, 1)
    assert len(router.asked) == 2


@pytest.mark.parametrize(("refresh", "least"), [(0, 0.0), (1, 1.5), (1, -0.1)])
def test_numbers_out_of_range_are_refused(refresh: int, least: float) -> None:
    with pytest.raises(ValueError, match=r"they must be at least 1, and in 0\.\.1"):
        KeptLists(Counting(), refresh=refresh, least_recall=least)
