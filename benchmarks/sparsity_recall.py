"""What routers of sparse attention keep, on queries and keys of the embedded model, beside chance and the best choice.

    python -m benchmarks.sparsity_recall

A clip of 81 frames (21 x 8 x 12 tokens, 4 heads of 64) is denoised densely; queries, keys and values of some layers and
steps are taken down. Each method chooses blocks of 64 tokens for them under the policy's defaults (first frame and
neighbours kept), and attention over those is compared with dense attention, without and with means that stand for the
blocks that are left out. "best" sorts blocks by their exact mass, "chance" draws them. Routing is timed on the CPU in
torch, as a share of dense attention there: it orders methods, and says nothing about a GPU.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import describe_machine, relative_error, time_interleaved
from reelray.kernels.attention.api import attend
from reelray.kernels.attention.lse import merge_partials
from reelray.kernels.block_attention.api import attend_blocks
from reelray.kernels.block_attention.lists import BlockLists
from reelray.kernels.block_routing.api import compensate, pool_blocks, sum_blocks
from reelray.kernels.block_routing.recall import kept_mass
from reelray.proto.sparsity import BY_MASS, FIXED, SparseMethod, SparsityPolicy, TokenOrderKind
from reelray.workers.acceleration.sparsity.choice import choose
from reelray.workers.acceleration.sparsity.orders import Orders
from reelray.workers.acceleration.sparsity.router import Blocking, Router, Scene
from reelray.workers.acceleration.sparsity.routers import make_router
from reelray.workers.acceleration.sparsity.semantic import SemanticOrder
from reelray.workers.acceleration.sparsity.tilings import frame_major
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.models.wan.model import WanModel
from reelray.workers.recipes.manifest import read_manifest
from reelray.workers.samplers.sigmas import shift_sigmas

SPRITES = Path("reelray/checkpoints/sprites")
RESULT = Path("benchmarks/results/sparsity_recall.json")
PROMPT = "a red circle moves left on a blue background"
GRID = (21, 8, 12)
ROWS = 64
LAYERS = (2, 5)
STEPS = (5, 10, 15)  # of 20; the first 4 are dense by default
NEXT = 6  # looked at only for lists that are a step old
DENSITIES = (0.75, 0.5, 0.35, 0.25)
TIMED = 0.35
MASSES = (0.95, 0.9)
Parts = tuple[Tensor, Tensor, Tensor]


class Capture:
    """Dense attention that takes down what it is given in chosen steps and layers."""

    rotates = False

    def __init__(self) -> None:
        self.step = -1
        self.found: dict[tuple[int, int], Parts] = {}

    def __call__(
        self, q_BSND: Tensor, k_BSND: Tensor, v_BSND: Tensor, *, layer: int, cos_BSP: Tensor, sin_BSP: Tensor
    ) -> Tensor:
        del cos_BSP, sin_BSP
        if self.step in {*STEPS, NEXT} and layer in LAYERS:
            self.found[self.step, layer] = (q_BSND.clone(), k_BSND.clone(), v_BSND.clone())
        return attend(q_BSND, k_BSND, v_BSND)


def take_down() -> dict[tuple[int, int], Parts]:
    """Denoise without guidance, by Euler's rule, up to the last step that is looked at."""
    model = open_checkpoint(SPRITES, device="cpu")
    if not isinstance(model, WanModel):
        raise TypeError(f"{SPRITES} holds no Wan model")
    schedule = read_manifest(SPRITES / "manifest.yaml").schedule
    sigmas = shift_sigmas(np.linspace(1, 0, schedule.steps + 1), schedule.shift)
    transformer = model.parts.transformer
    text = transformer.prepare_text(model.parts.text_encoder.encode([PROMPT])[:1])
    frames, rows, columns = GRID
    shape = (1, transformer.config.in_channels, frames, 2 * rows, 2 * columns)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    capture = Capture()
    for step in range(max(STEPS) + 1):
        capture.step = step
        flow = transformer(latents, torch.tensor([float(sigmas[step]) * 1000]), text, attention=capture)
        latents = latents + float(sigmas[step + 1] - sigmas[step]) * flow
    return capture.found


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One row of the table.

    Args:
        name: Of the method.
        order: Order of the tokens.
        scene: How much is attended.
        route: From laid queries, keys and values, and a layer, to lists.
        is_timed: Whether routing is timed; it takes as long at every density.
    """

    name: str
    order: TokenOrderKind
    scene: Scene
    route: Callable[[Parts, int], BlockLists]
    is_timed: bool = False


def cases(orders: Orders) -> Iterator[Case]:
    """All methods at all densities, in the order of their own and others."""
    for method in SparseMethod:
        if method in {SparseMethod.VSA, SparseMethod.SLA}:
            continue  # the embedded model was not trained for them
        rows = 128 if method is SparseMethod.DRAFT else ROWS
        yield from _policies(method, rows, orders, order=None)
    for kind in (TokenOrderKind.FRAMES, TokenOrderKind.TILES):
        yield from _policies(SparseMethod.SUB_BLOCK, ROWS, orders, order=kind)
    yield from _policies(SparseMethod.SPARGE, ROWS, orders, order=None, options={"similarity": 0.3})
    order = orders.order(TokenOrderKind.CURVE, GRID, ROWS)
    for density in DENSITIES:
        scene = Scene.of(order, SparsityPolicy(densities=(density,)))
        yield Case(name="best", order=TokenOrderKind.CURVE, scene=scene, route=_best(scene))
        yield Case(name="chance", order=TokenOrderKind.CURVE, scene=scene, route=_chance(scene))


def _policies(
    method: SparseMethod,
    rows: int,
    orders: Orders,
    *,
    order: TokenOrderKind | None,
    options: dict[str, float] | None = None,
) -> Iterator[Case]:
    own = SparsityPolicy(method=method, rows=rows, order=order or TokenOrderKind.AUTO, options=options or {})
    name = " ".join([str(method), *(f"{value:g}" for value in own.options.values())])
    laid = orders.order(own.token_order, GRID, rows)
    amounts: list[dict[str, Any]] = [{"densities": (density,)} for density in DENSITIES]
    if method in BY_MASS and order is None:
        amounts += [{"mass": mass} for mass in MASSES]
    for amount in amounts[:1] if method in FIXED else amounts:
        policy = replace(own, **amount)
        scene, router = Scene.of(laid, policy), make_router(policy)
        is_timed = method in FIXED or policy.mass == MASSES[-1] or scene.density == TIMED
        yield Case(name=name, order=own.token_order, scene=scene, route=_by(router, scene), is_timed=is_timed)


def _by(router: Router, scene: Scene) -> Callable[[Parts, int], BlockLists]:
    return lambda parts, layer: router.route(*parts, scene, layer=layer, heads=range(parts[0].shape[2]))


def block_mass(q_BSND: Tensor, k_BSND: Tensor, blocking: Blocking) -> Tensor:
    """Exact share of the softmax of each block [B, N, Q, G], averaged over the queries that are tokens."""
    queries, keys = blocking.queries, blocking.keys
    of_q, of_k = (torch.arange(q_BSND.shape[1]) // blocks.rows for blocks in (queries, keys))
    is_query, is_key = (
        torch.arange(len(of)) % blocks.rows < blocks.length_G[of] for of, blocks in ((of_q, queries), (of_k, keys))
    )
    logits = torch.einsum("bsnd,bknd->bnsk", q_BSND, k_BSND) * q_BSND.shape[-1] ** -0.5
    weights = logits.masked_fill(~is_key, -torch.inf).softmax(-1) * is_query[:, None]
    by_key = weights.new_zeros((*weights.shape[:3], keys.count)).index_add_(3, of_k, weights)
    sums = by_key.new_zeros((*weights.shape[:2], queries.count, keys.count)).index_add_(2, of_q, by_key)
    mass_BNQG: Tensor = sums / queries.length_G.clamp(min=1)[:, None]
    return mass_BNQG


def _best(scene: Scene) -> Callable[[Parts, int], BlockLists]:
    return lambda parts, _: choose(block_mass(parts[0], parts[1], scene.blocking).log(), scene)


def _chance(scene: Scene) -> Callable[[Parts, int], BlockLists]:
    def route(parts: Parts, layer: int) -> BlockLists:
        blocking = scene.blocking
        shape = (1, parts[0].shape[2], blocking.queries.count, blocking.keys.count)
        return choose(torch.rand(shape, generator=torch.Generator().manual_seed(layer)), scene)

    return route


def lay(parts: Parts, blocking: Blocking) -> Parts:
    q, k, v = (blocking.order.take(part) for part in parts)
    return q, k, v


def judge(parts: Parts, lists: BlockLists, blocking: Blocking, mass_BNQG: Tensor, dense: Tensor) -> dict[str, Any]:
    """Compare attention over lists with dense attention.

    Args:
        parts: Queries, keys and values, laid.
        lists: What is attended.
        blocking: How they were laid.
        mass_BNQG: Exact shares of the blocks.
        dense: Dense attention, not laid.
    """
    q, k, v = parts
    keys, order = blocking.keys, blocking.order
    mask = lists.mask(keys.count)
    length_Q = blocking.queries.length_G.float()
    recall_N = ((mass_BNQG * mask).sum(-1) * length_Q).sum(-1)[0] / length_Q.sum()
    sparse, lse = attend_blocks(q, k, v, lists)
    means_k = pool_blocks(k, keys.rows, length_G=keys.list_lengths)[:, :, :, 0]
    sums_v = sum_blocks(v, keys.rows, length_G=keys.list_lengths)
    filled, _ = merge_partials(sparse, lse, *compensate(q, means_k, sums_v, keys.length_G, lists))
    return {
        "density": float(mask.float().sum(-1).mean() / blocking.key_blocks),
        "recall_of_heads": [float(share) for share in recall_N],
        "error": relative_error(order.join(sparse), dense),
        "error_compensated": relative_error(order.join(filled), dense),
    }


def time_routing(case: Case, laid: Parts) -> float:
    """Routing as a share of dense attention, both timed in turn."""
    contenders: dict[str, Callable[[], Any]] = {
        "route": lambda: case.route(laid, LAYERS[0]),
        "dense": lambda: attend(*laid),
    }
    times = time_interleaved(contenders, runs=5, warmup=1)
    return times["route"].median_ms / times["dense"].median_ms


def summarise(name: str, order: str, asked: str, found: list[dict[str, Any]], ratio: float | None) -> dict[str, Any]:
    """One row over all layers and steps."""
    recalls = [share for one in found for share in one["recall_of_heads"]]
    return {
        "method": name,
        "order": order,
        "asked": asked,
        "density": statistics.mean(one["density"] for one in found),
        "recall": statistics.mean(recalls),
        "recall_worst_head": min(recalls),
        "error": statistics.mean(one["error"] for one in found),
        "error_compensated": statistics.mean(one["error_compensated"] for one in found),
        "routing_to_dense": ratio,
    }


def measure_cases(captures: dict[tuple[int, int], Parts], orders: Orders) -> list[dict[str, Any]]:
    masses: dict[tuple[Any, tuple[int, int]], Tensor] = {}
    dense = {key: attend(*parts) for key, parts in captures.items()}
    rows = []
    for case in cases(orders):
        blocking, found = case.scene.blocking, []
        for key, parts in captures.items():
            if key[0] == NEXT:
                continue
            laid = lay(parts, blocking)
            known = (blocking.order, key)
            if known not in masses:
                masses[known] = block_mass(laid[0], laid[1], blocking)
            found.append(judge(laid, case.route(laid, key[1]), blocking, masses[known], dense[key]))
        laid = lay(captures[STEPS[0], LAYERS[0]], blocking)
        ratio = time_routing(case, laid) if case.is_timed else None
        scene = case.scene
        asked = f"mass {scene.mass}" if scene.mass else f"density {scene.density}"
        if case.name in FIXED:
            asked = "its pattern"
        rows.append(summarise(case.name, str(case.order), asked, found, ratio))
    return rows


def measure_semantic(captures: dict[tuple[int, int], Parts]) -> list[dict[str, Any]]:
    """Tokens laid by k-means in each head; nothing is kept, as blocks are no places of the video."""
    blocking = Blocking.of(frame_major(GRID, ROWS), first_frame=False, neighbours=-1)
    router = make_router(SparsityPolicy(method=SparseMethod.SUB_BLOCK))
    rows = []
    for density in DENSITIES:
        scene, found = Scene(blocking=blocking, density=density), []
        for (step, layer), (q, k, v) in captures.items():
            if step == NEXT:
                continue
            order = SemanticOrder.find(q, k, query_clusters=32, key_clusters=64, rounds=8)
            laid = (order.lay_queries(q), order.lay_keys(k), order.lay_keys(v))
            lists = router.route(*laid, scene, layer=layer, heads=range(4))
            found.append(judge(laid, lists, blocking, block_mass(laid[0], laid[1], blocking), attend(*laid)))
        rows.append(summarise("semantic", "clusters", f"density {density}", found, None))
    return rows


def measure_reuse(captures: dict[tuple[int, int], Parts], orders: Orders) -> list[dict[str, Any]]:
    """Lists of one step, used in later ones."""
    policy = SparsityPolicy(densities=(0.35,), rows=ROWS)
    scene, router = Scene.of(orders.order(TokenOrderKind.CURVE, GRID, ROWS), policy), make_router(policy)
    rows = []
    for step in sorted({*STEPS, NEXT}):
        found = []
        for layer in LAYERS:
            old, new = (lay(captures[at, layer], scene.blocking) for at in (STEPS[0], step))
            lists = router.route(*old, scene, layer=layer, heads=range(4))
            mass, dense = block_mass(new[0], new[1], scene.blocking), attend(*captures[step, layer])
            found.append(judge(new, lists, scene.blocking, mass, dense))
        asked = f"density 0.35, lists {step - STEPS[0]} steps old"
        rows.append(summarise("sub_block", "curve", asked, found, None))
    return rows


def check(captures: dict[tuple[int, int], Parts], orders: Orders) -> None:
    """Hold the shares of this file against the tool of the kernels."""
    policy = SparsityPolicy(densities=(0.35,), rows=ROWS)
    scene = Scene.of(orders.order(TokenOrderKind.CURVE, GRID, ROWS), policy)
    q, k, v = lay(captures[STEPS[0], LAYERS[0]], scene.blocking)
    lists = make_router(policy).route(q, k, v, scene, layer=0, heads=range(4))
    own = (block_mass(q, k, scene.blocking) * lists.mask(scene.blocking.keys.count)).sum(-1)
    if not torch.allclose(own, kept_mass(q, k, lists), atol=1e-4):
        raise RuntimeError("recall differs from that of kept_mass")


def show(rows: list[dict[str, Any]]) -> None:
    print(
        "method          order     asked                            density recall worst  error  +means routing/dense"
    )
    for row in rows:
        ratio = "" if row["routing_to_dense"] is None else f"{row['routing_to_dense']:.2f}"
        print(
            f"{row['method']:15} {row['order']:9} {row['asked']:32} {row['density']:.3f}   {row['recall']:.3f}  "
            f"{row['recall_worst_head']:.3f}  {row['error']:.3f}  {row['error_compensated']:.3f}  {ratio}"
        )


@torch.inference_mode()
def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    start = time.perf_counter()
    captures, orders = take_down(), Orders()
    check(captures, orders)
    rows = [*measure_cases(captures, orders), *measure_semantic(captures), *measure_reuse(captures, orders)]
    report = {
        "case": "sparsity_recall",
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": describe_machine(),
        "threads": torch.get_num_threads(),
        "grid": GRID,
        "layers": LAYERS,
        "steps": STEPS,
        "rows": rows,
        "seconds": time.perf_counter() - start,
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    show(rows)


if __name__ == "__main__":
    main()
