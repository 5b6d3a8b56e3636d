"""Pages of host memory, and tensors that rest in them."""

import pytest
import torch

from reelray.proto.errors import ResourceError
from reelray.workers.memory.host_pages import HostPages
from reelray.workers.memory.parcel import Parcel
from reelray.workers.memory.transfers import Transfers


def test_host_pages_are_given_back_once_and_allocated_when_they_are_needed(monkeypatch):
    monkeypatch.setattr("reelray.workers.memory.host_pages.SLAB_BYTES", 3 * 64)
    host = HostPages(page_bytes=64, budget_bytes=7 * 64 + 63, device=torch.device("cpu"), poison=255)
    assert (host.pages, host.free, len(host._slabs)) == (7, 7, 0)
    first = host.take(2)
    assert len(host._slabs) == 1
    rest = host.take(5)
    assert len(host._slabs) == 3
    assert len({row.data_ptr() for row in host.rows(first + rest)}) == 7
    with pytest.raises(ResourceError, match="takes 64 bytes of host memory; 0 of 448 are free"):
        host.take(1)
    for row in host.rows(first):
        row.fill_(1)
    host.drop(first)
    with pytest.raises(ValueError, match="are free"):
        host.drop(first[:1])
    with pytest.raises(ValueError, match="repeat"):
        host.drop([rest[0], rest[0]])
    assert all((row == 255).all() for row in host.rows(host.take(2)))


@pytest.mark.parametrize("page_bytes", [16, 48, 4096])
def test_tensors_rest_byte_by_byte(page_bytes):
    host = HostPages(page_bytes=page_bytes, budget_bytes=1 << 16, device=torch.device("cpu"), poison=255)
    transfers = Transfers(torch.device("cpu"))
    tensors = [
        torch.randn(3, 5),
        torch.arange(7),
        torch.randn(4, 6, dtype=torch.bfloat16).T,
        torch.tensor(3.5),
        torch.empty(0, 4),
        torch.tensor([True, False, True]),
        torch.randn(2, 3, 5)[:, ::2],
    ]
    wanted = [tensor.clone() for tensor in tensors]
    parcel, other = Parcel(tensors, host, transfers), Parcel([torch.full((9,), 7)], host, transfers)
    nbytes = 60 + 56 + 48 + 4 + 3 + 2 * 2 * 5 * 4
    assert host.pages - host.free == -(-nbytes // page_bytes) + -(-72 // page_bytes)
    for tensor in tensors:
        tensor.zero_()
    found, _ = parcel.unpack(torch.device("cpu"))
    for one, two in zip(found, wanted, strict=True):
        assert one.dtype is two.dtype
        assert torch.equal(one, two)
    parcel.close()
    assert other.unpack(torch.device("cpu"))[0][0].tolist() == [7] * 9
    assert host.free == host.pages
