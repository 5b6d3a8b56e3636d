"""The byte-bounded cache."""

import pytest
import torch

from reelray.workers.models.byte_cache import ByteCache


def test_least_recently_used_goes_first() -> None:
    cache = ByteCache(24)
    for key in "abc":
        cache.put(key, torch.zeros(2))
    assert cache.get("a") is not None
    cache.put("d", torch.zeros(2))
    assert cache.get("b") is None
    assert all(cache.get(key) is not None for key in "acd")
    assert cache.held_bytes == 24


def test_a_tensor_beyond_the_limit_is_not_kept() -> None:
    cache = ByteCache(24)
    cache.put("a", torch.zeros(2))
    cache.put("big", torch.zeros(7))
    assert cache.get("big") is None
    assert cache.get("a") is not None


def test_putting_twice_counts_once() -> None:
    cache = ByteCache(24)
    cache.put("a", torch.zeros(2))
    cache.put("a", torch.zeros(2))
    assert cache.held_bytes == 8


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="limit_bytes is -1"):
        ByteCache(-1)
