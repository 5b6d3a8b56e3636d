"""Routers that look at queries and keys, against lists that are sorted out block by block in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reelray.kernels.block_attention.lists import BlockLists
from reelray.proto.sparsity import SparseMethod, SparsityPolicy
from reelray.workers.acceleration.sparsity.antidiagonal import Antidiagonal
from reelray.workers.acceleration.sparsity.curve import curve
from reelray.workers.acceleration.sparsity.head_classes import HeadClasses
from reelray.workers.acceleration.sparsity.pooled import BLOCK_MEAN, Chunks, Draft, Sparge, SubBlock, nearest_divisor
from reelray.workers.acceleration.sparsity.router import Blocking, Router, Scene
from reelray.workers.acceleration.sparsity.tilings import frame_major, tiled
from reelray.workers.acceleration.sparsity.token_order import TokenOrder

HEADS, WIDTH = 3, 8
CURVE = curve((5, 6, 8), 24)
PADDED = tiled((5, 6, 8), (2, 4, 3))
FRAMES = frame_major((5, 6, 9), 24)  # 270 tokens: the last block is short
ORDERS = [CURVE, PADDED, FRAMES]


def draw(order: TokenOrder, seed: int = 0, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values that change slowly over the video, in the order."""
    made = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, HEADS * WIDTH * 3, 3, 3, 4, generator=made) * 2
    smooth = torch.nn.functional.interpolate(coarse, order.grid, mode="trilinear")
    fields = smooth + 0.5 * torch.randn(smooth.shape, generator=made)
    tokens = fields.flatten(2).transpose(1, 2).unflatten(2, (3, HEADS, WIDTH))
    q, k, v = (order.take(tokens[:, :, part]) for part in range(3))
    return q, k, v


def scene_of(
    order: TokenOrder, density: float | None = None, mass: float | None = None, *, keeps: bool = False
) -> Scene:
    blocking = Blocking.of(order, first_frame=keeps, neighbours=1 if keeps else -1)
    return Scene(blocking=blocking, density=density, mass=mass)


def chosen(lists: BlockLists, keys: int) -> Tensor:
    lists.check(keys)
    return lists.mask(keys)


def tokens_of(order: TokenOrder, block: int) -> slice:
    """Places of the tokens of a block."""
    length = int(order.cut().length_G[block])
    return slice(block * order.rows, block * order.rows + length)


def best(scores: dict[int, float], kept: set[int], count: int | None, mass: float | None) -> set[int]:
    """The kept blocks, and of the others the best ones, the lower number first among equals."""
    ranked = sorted(scores, key=lambda block: (-scores[block], block))
    taken = set(kept)
    if count is not None:
        for block in ranked:
            if len(taken) >= count:
                break
            taken.add(block)
        return taken
    assert mass is not None
    top = max(scores.values())
    weight = {block: math.exp(score - top) for block, score in scores.items()}
    total = sum(weight.values())
    for block in ranked:
        if taken and sum(weight.get(one, 0.0) for one in taken) >= mass * total:
            break
        taken.add(block)
    return taken


def kept_by(scene: Scene, query: int) -> set[int]:
    return set(scene.blocking.keep_QG[query].nonzero().flatten().tolist())


def compare(lists: BlockLists, scene: Scene, score: Callable[[int, int, int, int], dict[int, float] | None]) -> None:
    """Hold lists against scores; None attends everything."""
    keys = scene.blocking.keys.count
    mask = chosen(lists, keys)
    full = {block for block in range(keys) if not bool(scene.blocking.keys.is_empty[block])}
    for batch in range(mask.shape[0]):
        for head in range(mask.shape[1]):
            for query in range(mask.shape[2]):
                scores = score(batch, head, query, keys)
                wanted = full if scores is None else best(scores, kept_by(scene, query), scene.count, scene.mass)
                assert set(mask[batch, head, query].nonzero().flatten().tolist()) == wanted, (batch, head, query)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize(("density", "mass", "keeps"), [(0.4, None, False), (0.5, None, True), (None, 0.8, True)])
def test_sub_blocks_are_chosen_by_the_mass_that_means_of_parts_estimate(
    order: TokenOrder, parts: int, density: float | None, mass: float | None, keeps: bool
) -> None:
    q, k, v = draw(order)
    scene = scene_of(order, density, mass, keeps=keeps)
    lists = SubBlock(parts=parts).route(q, k, v, scene, layer=0, heads=range(HEADS))
    part = order.rows // parts

    def means(x: Tensor) -> list[Tensor]:
        """Of each block [B, N, parts that have tokens, D]."""
        blocks = [x[:, tokens_of(order, block)].double() for block in range(scene.blocking.keys.count)]
        cut = [
            [tokens[:, first : first + part].mean(1) for first in range(0, tokens.shape[1], part)] for tokens in blocks
        ]
        return [torch.stack(parts_of_block, 2) for parts_of_block in cut]

    of_q, of_k = means(q), means(k)

    def score(batch: int, head: int, query: int, keys: int) -> dict[int, float]:
        own = of_q[query][batch, head] / math.sqrt(WIDTH)
        return {key: float((own @ of_k[key][batch, head].mT).exp().sum().log()) for key in range(keys)}

    compare(lists, scene, score)
    assert not torch.equal(lists.mask(scene.blocking.key_blocks)[:, 0], lists.mask(scene.blocking.key_blocks)[:, 1])


def test_a_block_is_cut_into_the_nearest_number_of_parts() -> None:
    assert [nearest_divisor(rows, 4) for rows in (128, 126, 63, 120, 7)] == [4, 3, 3, 4, 1]
    assert nearest_divisor(120, 7) == 6


@pytest.mark.parametrize(("density", "mass"), [(0.3, None), (None, 0.7)])
@pytest.mark.parametrize("order", ORDERS)
def test_sparge_trusts_blocks_that_are_alike_and_no_others(
    order: TokenOrder, density: float | None, mass: float | None
) -> None:
    q, k, v = draw(order)
    scene = scene_of(order, density, mass)
    places = [tokens_of(order, block) for block in range(scene.blocking.keys.count)]
    all_keys = torch.cat([k[:, place] for place in places], 1).double()
    centred = k.double() - all_keys.mean(1, keepdim=True)

    def likeness(x: Tensor) -> Tensor:
        """Of each block [B, N, G]."""
        ones = [torch.nn.functional.normalize(x[:, place].transpose(1, 2).double(), dim=-1) for place in places]
        return torch.stack([(tokens @ tokens.mT).mean((2, 3)) for tokens in ones], 2)

    q_alike, k_alike = likeness(q), likeness(centred)
    every = torch.cat([q_alike.flatten(), k_alike.flatten()]).sort().values
    limit = float(every[len(every) // 4] + every[len(every) // 4 + 1]) / 2
    lists = Sparge(similarity=limit).route(q, k, v, scene, layer=0, heads=range(HEADS))
    q_means, k_means = (torch.stack([x[:, place].double().mean(1) for place in places], 2) for x in (q, k))
    unlike = 0

    def score(batch: int, head: int, query: int, keys: int) -> dict[int, float] | None:
        nonlocal unlike
        if q_alike[batch, head, query] < limit:
            unlike += 1
            return None
        own = q_means[batch, head, query] / math.sqrt(WIDTH)
        is_alike = k_alike[batch, head] >= limit
        return {key: float(own @ k_means[batch, head, key]) for key in range(keys) if is_alike[key]}

    keys = scene.blocking.keys.count
    mask = chosen(lists, keys)
    for batch in range(2):
        for head in range(HEADS):
            always = set((k_alike[batch, head] < limit).nonzero().flatten().tolist())
            for query in range(keys):
                scores = score(batch, head, query, keys)
                wanted = set(range(keys)) if scores is None else best(scores, always, scene.count, scene.mass)
                if scores and mass is not None and always:
                    # What is kept has no mass here, so that the others reach the share by themselves.
                    wanted = always | best(scores, set(), None, mass)
                assert set(mask[batch, head, query].nonzero().flatten().tolist()) == wanted
    assert 0 < unlike < 2 * HEADS * keys
    assert int(lists.count_BNQ.min()) > 0


def antidiagonal_mass(q: Tensor, k: Tensor, rows: int, stride: int) -> Tensor:
    """Of one head: share of the softmax over groups, summed over blocks of keys, averaged over those of queries."""
    groups, per = math.ceil(len(q) / stride), rows // stride
    logits = torch.zeros(groups, groups, dtype=torch.float64)
    products = (q.double() @ k.double().mT / math.sqrt(WIDTH)).tolist()
    for query in range(len(q)):
        for key in range(len(k)):
            if query % stride + key % stride == stride - 1:
                logits[query // stride, key // stride] += products[query][key] / stride
    of_block = torch.arange(groups) // per
    shares = torch.zeros(groups, int(of_block[-1]) + 1, dtype=torch.float64)
    shares.index_add_(1, of_block, logits.softmax(-1))
    return torch.stack([shares[of_block == block].mean(0) for block in of_block.unique()])


@pytest.mark.parametrize("order", [CURVE, FRAMES])
@pytest.mark.parametrize(("density", "mass"), [(0.3, None), (None, 0.9)])
def test_antidiagonals_are_chosen_by_the_mass_of_their_groups(
    order: TokenOrder, density: float | None, mass: float | None
) -> None:
    q, k, v = draw(order, batch=1)
    scene = scene_of(order, density, mass, keeps=True)
    lists = Antidiagonal(stride=7).route(q, k, v, scene, layer=0, heads=range(HEADS))  # 6 divides 24
    shares = [antidiagonal_mass(q[0, :, head], k[0, :, head], 24, 6) for head in range(HEADS)]

    def score(_: int, head: int, query: int, keys: int) -> dict[int, float]:
        return {key: math.log(float(shares[head][query, key])) for key in range(keys)}

    compare(lists, scene, score)


def test_antidiagonals_refuse_padding() -> None:
    q, k, v = draw(PADDED)
    with pytest.raises(ValueError, match="antidiagonal takes an order without padding"):
        Antidiagonal().route(q, k, v, scene_of(PADDED, 0.5), layer=0, heads=range(HEADS))


def test_draft_compares_patches_and_gives_each_row_the_same_number() -> None:
    order = tiled((3, 6, 8), (1, 4, 3))
    q, k, v = draw(order)
    scene = scene_of(order, 0.3, keeps=True)
    lists = Draft().route(q, k, v, scene, layer=0, heads=range(HEADS))

    def score(batch: int, head: int, query: int, keys: int) -> dict[int, float]:
        own = q[batch, tokens_of(order, query), head].double().mean(0)
        return {key: float(own @ k[batch, tokens_of(order, key), head].double().mean(0)) for key in range(keys)}

    compare(lists, scene, score)
    with pytest.raises(ValueError, match="draft takes an order of patches"):
        Draft().route(*draw(CURVE), scene_of(CURVE, 0.5), layer=0, heads=range(HEADS))


def test_chunks_are_segments_along_other_axes_in_every_layer() -> None:
    order = tiled((8, 6, 8), (2, 3, 2))
    q, k, v = draw(order, batch=1)
    scene = scene_of(order, 0.5)
    router = Chunks(segments=2)
    tiles = [(t, h, w) for t in range(4) for h in range(2) for w in range(4)]
    segments: dict[int, list[tuple[int, ...]]] = {
        0: [(t,) for t, _, _ in tiles],
        1: [(h, w // 2) for _, h, w in tiles],
        2: [(t // 2, w // 2) for t, _, w in tiles],  # 8 frames and 8 columns are halved before 6 rows are
    }
    for layer, segment in segments.items():
        assert len(set(segment)) == 4
        lists = router.route(q, k, v, scene, layer=layer + 3, heads=range(HEADS))
        mask = chosen(lists, len(tiles))
        for head in range(HEADS):
            blocks = [k[0, tokens_of(order, block), head].double() for block in range(len(tiles))]
            means = {
                name: torch.cat([part for part, own in zip(blocks, segment, strict=True) if own == name]).mean(0)
                for name in set(segment)
            }
            for query in range(len(tiles)):
                own = q[0, tokens_of(order, query), head].double().mean(0)
                fit = {name: float(own @ mean) for name, mean in means.items()}
                fit[segment[query]] = math.inf
                two = sorted(fit, key=lambda name: -fit[name])[:2]
                assert mask[0, head, query].tolist() == [name in two for name in segment]


def test_each_head_looks_where_it_loses_less() -> None:
    order = frame_major((6, 4, 8), 8)  # a block is a row of a frame
    scene = scene_of(order, 0.25)
    frame = torch.arange(6).repeat_interleave(32)
    row = torch.arange(4).repeat_interleave(8).repeat(6)
    of_frame, of_row = (torch.nn.functional.one_hot(part, WIDTH).float() * 12 for part in (frame, row))
    keys = torch.stack([of_frame, of_row, of_frame], 1)[None]  # heads 0 and 2 look within frames, head 1 along time
    values = torch.randn(keys.shape, generator=torch.Generator().manual_seed(1))
    lists = HeadClasses(samples=16).route(keys, keys, values, scene, layer=0, heads=range(3))
    mask = chosen(lists, 24)
    blocks = [(block // 4, block % 4) for block in range(24)]
    for query, (t, r) in enumerate(blocks):
        within = {g for g, (frame_g, _) in enumerate(blocks) if frame_g == t}
        along = {g for g, (_, row_g) in enumerate(blocks) if row_g == r}
        for head, wanted in enumerate((within, along, within)):
            listed = set(mask[0, head, query].nonzero().flatten().tolist())
            assert wanted <= listed
            assert len(listed) == 6


def test_head_classes_are_those_with_the_smaller_error() -> None:
    order = frame_major((5, 6, 8), 8)
    q, k, v = draw(order, seed=3)
    scene = scene_of(order, 0.3)
    router = HeadClasses(samples=order.tokens)
    lists = router.route(q, k, v, scene, layer=0, heads=range(HEADS))
    masks = [chosen(part, 30)[0, 0] for part in router.patterns(scene)]
    assert not torch.equal(masks[0], masks[1])
    logits = torch.einsum("bsnd,bknd->bnsk", q, k).double() / math.sqrt(WIDTH)
    dense = logits.softmax(-1) @ v.transpose(1, 2).double()
    errors = []
    for mask in masks:
        seen = mask.repeat_interleave(8, 0).repeat_interleave(8, 1)
        mixed = logits.masked_fill(~seen, -torch.inf).softmax(-1) @ v.transpose(1, 2).double()
        errors.append(((mixed - dense) ** 2).mean((2, 3)))
    found = chosen(lists, 30)
    classes = errors[1] < errors[0]
    assert 0 < int(classes.sum()) < classes.numel()
    for batch in range(2):
        for head in range(HEADS):
            assert torch.equal(found[batch, head], masks[int(classes[batch, head])])


def test_head_classes_ignore_padding() -> None:
    q, k, v = draw(PADDED)
    scene = scene_of(PADDED, 0.5)
    lists = HeadClasses(samples=240).route(q, k, v, scene, layer=0, heads=range(HEADS))
    place = torch.arange(PADDED.places)
    is_padding = place % 24 >= PADDED.cut().length_G[place // 24]
    assert is_padding.any()
    k[:, is_padding], v[:, is_padding], q[:, is_padding] = torch.nan, torch.nan, torch.nan
    v = v.nan_to_num(1e9)
    again = HeadClasses(samples=240).route(q, k, v, scene, layer=0, heads=range(HEADS))
    assert torch.equal(again.mask(18), lists.mask(18))


def test_head_classes_refuse_a_mass_and_no_samples() -> None:
    with pytest.raises(ValueError, match="takes a density, no mass"):
        HeadClasses().route(*draw(CURVE), scene_of(CURVE, mass=0.9), layer=0, heads=range(HEADS))
    with pytest.raises(ValueError, match="samples is 0"):
        HeadClasses(samples=0)


ROUTERS: list[Router] = [SubBlock(), BLOCK_MEAN, Sparge(), Antidiagonal(), Chunks(), HeadClasses()]


@pytest.mark.parametrize("router", ROUTERS, ids=lambda part: type(part).__name__)
def test_what_is_kept_is_attended_whatever_the_scores(router: Router) -> None:
    q, k, v = draw(CURVE)
    scene = scene_of(CURVE, 0.1, keeps=True)
    lists = router.route(-q, k, v, scene, layer=0, heads=range(HEADS))
    mask = chosen(lists, 10)
    assert mask[:, :, scene.blocking.keep_QG].all()
    assert (lists.query_rows, lists.key_rows, lists.count_BNQ.shape) == (24, 24, (2, HEADS, 10))


@pytest.mark.parametrize(
    "router", [SubBlock(), BLOCK_MEAN, Chunks(), HeadClasses()], ids=lambda part: type(part).__name__
)
def test_a_density_is_what_lists_have(router: Router) -> None:
    q, k, v = draw(FRAMES)
    for density, blocks in ((0.25, 3), (0.5, 6), (1.0, 12)):
        scene = scene_of(FRAMES, density)
        lists = router.route(q, k, v, scene, layer=2, heads=range(HEADS))
        assert lists.count_BNQ.amin() >= blocks
        if not isinstance(router, Chunks):  # a segment of its own may be more
            assert lists.count_BNQ.amax() == blocks


def test_a_policy_reaches_the_lists() -> None:
    policy = SparsityPolicy(
        method=SparseMethod.BLOCK_MEAN, densities=(0.6, 0.3), dense_share=0.0, first_frame=False, neighbours=-1
    )
    q, k, v = draw(CURVE)
    scene = Scene.of(CURVE, policy, 0.1)
    assert BLOCK_MEAN.route(q, k, v, scene, layer=0, heads=range(HEADS)).density(10) == pytest.approx(0.6)
    assert BLOCK_MEAN.route(q, k, v, scene.at(policy, 0.9), layer=0, heads=range(HEADS)).density(10) == pytest.approx(
        0.3
    )


@pytest.mark.parametrize("keeps", [False, True])
def test_lists_have_room_for_what_they_can_hold_and_one_more(keeps: bool) -> None:
    q, k, v = draw(FRAMES)
    scene = scene_of(FRAMES, 0.25, keeps=keeps)
    lists = SubBlock().route(q, k, v, scene, layer=0, heads=range(HEADS))
    assert lists.capacity == int(lists.count_BNQ.max()) + 1
    assert int(lists.count_BNQ.max()) == (6 if keeps else 3)  # 3 of the first frame, and 3 beside the query
