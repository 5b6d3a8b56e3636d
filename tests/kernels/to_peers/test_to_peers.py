"""The exchange of a window between ranks: each in turn puts into the rooms of all, and the whole window is there."""

from itertools import pairwise

import pytest
import torch

from reelray.kernels.to_peers.api import Rooms, meet, put_heads, put_tokens
from reelray.kernels.to_peers.spread import Spread
from tests.support.interpreted import interpreted_only

# frames, places of each rank, heads of each rank
WINDOWS = [
    (1, (1,), (1,)),
    (3, (2, 2), (2, 2)),
    (2, (3, 2, 2), (3, 2, 2)),
    (2, (2, 1), (5, 1)),
    (1, (2, 2, 1, 1), (1, 1, 1, 1)),
]
DTYPES = [torch.float32, torch.bfloat16]


def make_spreads(frames, places, counts):
    ends = [sum(counts[:end]) for end in range(len(counts) + 1)]
    heads = tuple(range(start, end) for start, end in pairwise(ends))
    return [Spread(frames=frames, places=places, heads=heads, index=index) for index in range(len(places))]


def make_rooms(spreads, elements, dtype, device, *, pointers):
    tensors = tuple(torch.full((elements,), 9.0, device=device).to(dtype) for _ in spreads)
    addresses = torch.tensor([tensor.data_ptr() for tensor in tensors], device=device)
    return Rooms(mine=tensors[0], tensors=tensors, pointers=addresses if pointers else None)


def check(frames, places, counts, dtype, *, batch, width, parts, device="cpu", pointers=False):
    """Each rank gets exactly its heads of all tokens, then exactly its tokens with all heads."""
    spreads = make_spreads(frames, places, counts)
    total, heads = sum(places), sum(counts)
    torch.manual_seed(0)
    whole = torch.randn(parts, batch, frames, total, heads, width, device=device).to(dtype)
    rooms = make_rooms(spreads, whole.numel() + 5, dtype, device, pointers=pointers)
    own = [slice(spread.first_places[i], spread.first_places[i + 1]) for i, spread in enumerate(spreads)]
    for spread, mine in zip(spreads, own, strict=True):
        sent = whole[:, :, :, mine].flatten(2, 3)
        # Values are a slice of a wider projection.
        wide = torch.cat([sent[-1], sent[-1]], -2)[:, :, :heads]
        put_heads([*sent[:-1], wide], rooms, spread)
    for spread, room in zip(spreads, rooms.tensors, strict=True):
        expected = whole.flatten(2, 3)[:, :, :, spread.mine.start : spread.mine.stop]
        assert torch.equal(room[: expected.numel()].view(expected.shape), expected)
        assert (room[expected.numel() :] == 9.0).all()
    back = make_rooms(spreads, whole[0].numel() + 5, dtype, device, pointers=pointers)
    for spread in spreads:
        put_tokens(whole[0].flatten(1, 2)[:, :, spread.mine.start : spread.mine.stop], back, spread)
    for mine, room in zip(own, back.tensors, strict=True):
        expected = whole[0][:, :, mine].flatten(1, 2)
        assert torch.equal(room[: expected.numel()].view(expected.shape), expected)
        assert (room[expected.numel() :] == 9.0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("batch", "parts"), [(1, 3), (2, 4)])
def test_copies_put_everything_in_its_place(window, dtype, batch, parts) -> None:
    check(*window, dtype, batch=batch, width=16, parts=parts)


@interpreted_only
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("batch", "parts"), [(1, 3), (2, 4)])
def test_interpreted_kernels_put_everything_in_its_place(window, batch, parts) -> None:
    check(*window, torch.float32, batch=batch, width=16, parts=parts, pointers=True)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [*WINDOWS, (3, (390, 390, 390, 390), (3, 3, 3, 3)), (5, (31, 30), (20, 20))])
@pytest.mark.parametrize(("batch", "parts"), [(1, 3), (2, 4)])
def test_cuda_kernels_put_everything_in_its_place(window, dtype, batch, parts) -> None:
    check(*window, dtype, batch=batch, width=128, parts=parts, device="cuda", pointers=True)


@pytest.mark.gpu
def test_who_is_told_to_stop_waits_no_longer() -> None:
    """Of two ranks one never comes."""
    pads = torch.zeros(2, 2, dtype=torch.int32, device="cuda")
    addresses = torch.tensor([pad.data_ptr() for pad in pads], device="cuda")
    turn, stop = torch.zeros(2, dtype=torch.int32, device="cuda").split(1)
    side, word = torch.cuda.Stream(), torch.ones(1, dtype=torch.int32).pin_memory()
    torch.cuda.synchronize()
    meet(addresses, turn, stop, 0)
    assert not torch.cuda.current_stream().query()
    with torch.cuda.stream(side):
        stop.copy_(word, non_blocking=True)  # a kernel might be loaded only when the other one has ended
    torch.cuda.synchronize()
    assert turn.item() == 1
    assert pads.tolist() == [[1, 0], [1, 0]]


def test_what_does_not_fit_is_refused() -> None:
    spread = make_spreads(1, (2, 2), (1, 1))[0]
    part = torch.zeros(1, 2, 2, 16)
    small = make_rooms([spread] * 2, 3, torch.float32, "cpu", pointers=False)
    with pytest.raises(ValueError, match="rooms of 3 elements"):
        put_heads([part], small, spread)
    with pytest.raises(ValueError, match="rooms of 3 elements"):
        put_tokens(part, small, spread)
    room = make_rooms([spread] * 2, 99, torch.float32, "cpu", pointers=False)
    with pytest.raises(ValueError, match="one shape and dtype"):
        put_heads([part, part.half()], room, spread)
    with pytest.raises(ValueError, match=r"rooms of 99 elements, torch\.float32"):
        put_heads([part.half()], room, spread)
