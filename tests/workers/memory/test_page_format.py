"""8-bit pages against their definition, number by number."""

import math
import random
from dataclasses import replace

import pytest
import torch

from reelray.proto.storage import Storage
from reelray.workers.memory.arena import Arena
from reelray.workers.memory.page_format import KeyShape
from reelray.workers.memory.pool import PagePool

SHAPE = KeyShape(layers=2, heads=3, width=8, dtype=torch.float32)
EIGHT = (Storage.FP8, Storage.INT8)
TOKENS, ROWS = 11, 5


def make_pool(storage, shape=SHAPE, pages=9):
    arena = Arena(page_bytes=ROWS * shape.token_bytes, pages=pages, device=torch.device("cpu"), poison=True)
    return PagePool(arena, shape, storage)


def keep(pool, keys, values, layer=1):
    """Two latent frames through the pages."""
    frames = [pool.take(pool.pages_for(TOKENS)) for _ in range(2)]
    pool.writer(frames, TOKENS)(layer, keys, values)
    return pool.reader(frames, TOKENS)(layer)


def draw(shape=SHAPE, seed=0):
    """Tokens and heads of very different size."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.randint(-6, 5, (2, 2 * TOKENS, shape.heads, 1), generator=generator)
    return torch.randn(2, 2 * TOKENS, shape.heads, shape.width, generator=generator) * sizes


def int8_by_definition(values):
    scale = max(abs(value) for value in values) / 127
    return [round(value / scale) * scale for value in values]


def e4m3_by_definition(values):
    """Four bits of exponent, bias 7, three of mantissa: multiples of 2^(exponent - 3), of 2^-9 below 2^-6."""
    scale = max(abs(value) for value in values) / 448
    found = []
    for value in values:
        small = abs(value) / scale
        exponent = max(-6, math.floor(math.log2(small))) if small else -6
        found.append(math.copysign(round(small / 2 ** (exponent - 3)) * 2 ** (exponent - 3) * scale, value))
    return found


@pytest.mark.parametrize("storage", EIGHT)
def test_numbers_are_those_of_the_definition(storage):
    define = {Storage.FP8: e4m3_by_definition, Storage.INT8: int8_by_definition}[storage]
    given = draw()
    for found, exact in zip(keep(make_pool(storage), *given), given, strict=True):
        for row, wanted in zip(found.flatten(0, 1).tolist(), exact.flatten(0, 1).tolist(), strict=True):
            assert row == pytest.approx(define(wanted), rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("storage", EIGHT)
def test_the_error_keeps_its_bound(storage, seed):
    given = draw(seed=seed)
    exact = keep(make_pool(Storage.EXACT), *given)
    worst = 0.0
    for found, wanted in zip(keep(make_pool(storage), *given), exact, strict=True):
        largest = wanted.abs().amax(-1, keepdim=True)
        if storage is Storage.INT8:
            bound = (largest / 254).expand_as(wanted)
        else:
            bound = torch.maximum(wanted.abs() / 16, largest / 448 / 1024)
        ratio = (found - wanted).abs() / bound
        assert ratio.max() <= 1 + 1e-3
        worst = max(worst, float(ratio.max()))
    assert worst > 0.9  # else the bound says little


@pytest.mark.parametrize("storage", Storage)
def test_exact_values_stay_and_nothing_runs_into_its_neighbours(storage):
    """Zeros, and powers of two below a largest one that 8 bits hold."""
    pool, largest = make_pool(storage), {Storage.INT8: 127.0}.get(storage, 448.0)
    frames = [pool.take(pool.pages_for(TOKENS)) for _ in range(3)]
    written = {}
    for number, frame in enumerate(frames):
        for layer in range(SHAPE.layers):
            keys = torch.zeros(TOKENS, SHAPE.heads, SHAPE.width)
            keys[number:, :, 0], keys[number:, :, 1] = largest, 2.0 ** (number + layer)
            written[number, layer] = (keys, -keys)
            pool.writer([frame], TOKENS)(layer, keys, -keys)
    for (number, layer), wanted in written.items():
        for found, exact in zip(pool.reader([frames[number]], TOKENS)(layer), wanted, strict=True):
            assert torch.equal(found, exact)


@pytest.mark.parametrize("storage", EIGHT)
def test_half_precision_comes_back_as_such(storage):
    shape = replace(SHAPE, dtype=torch.bfloat16)
    given = draw(shape).bfloat16()
    for found, exact in zip(keep(make_pool(storage, shape), *given), given, strict=True):
        assert found.dtype is torch.bfloat16
        largest = exact.float().abs().amax(-1, keepdim=True)
        bound = largest / (254 if storage is Storage.INT8 else 16) + found.float().abs() * 2**-8
        assert ((found.float() - exact.float()).abs() <= bound).all()


def test_bytes_are_counted_with_their_scales():
    shape = KeyShape(layers=30, heads=12, width=128, dtype=torch.bfloat16)
    assert shape.stored_bytes(Storage.EXACT) == shape.token_bytes == 2 * 30 * 12 * 128 * 2
    for storage in EIGHT:
        assert shape.stored_bytes(storage) == 2 * 30 * 12 * (128 + 4)
    page_bytes = 128 * shape.token_bytes
    assert page_bytes // shape.stored_bytes(Storage.INT8) == 248


@pytest.mark.parametrize("storage", EIGHT)
def test_pages_hold_as_many_tokens_as_their_bytes(storage):
    rng = random.Random(3)
    for _ in range(60):
        shape = KeyShape(
            layers=rng.randint(1, 3),
            heads=rng.randint(1, 3),
            width=2 * rng.randint(1, 9),
            dtype=rng.choice((torch.float32, torch.bfloat16)),
        )
        if ROWS * shape.token_bytes < 2 * shape.stored_bytes(storage):
            continue
        pool = make_pool(storage, shape, pages=2)
        assert pool.rows == pool.page_bytes // shape.stored_bytes(storage)


@pytest.mark.parametrize("storage", Storage)
def test_freed_pages_read_as_nothing(storage):
    pool = make_pool(storage)
    pages = pool.take(2)
    pool.writer([pages[:1]], 3)(0, *torch.randn(2, 3, SHAPE.heads, SHAPE.width))
    pool.drop(pages)
    again = pool.take(2)
    assert set(again) == set(pages)
    for part in pool.reader([again[:1]], 3)(0):
        assert part.isnan().all()
