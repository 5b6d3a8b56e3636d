"""Host memory that a GPU copies from is locked once, and given back when nothing needs it."""

import contextlib
import gc

import pytest
import torch

from reelray.proto.errors import ResourceError
from reelray.workers.residency.host_blocks import HostBuffer

CUDA = torch.device("cuda", 0)


class Runtime:
    """Stands for the CUDA runtime; notes what is locked, and refuses more than `room` bytes."""

    def __init__(self, room):
        self.room = room
        self.locked = {}
        self.waits = 0

    def cudaHostRegister(self, pointer, nbytes, _flags):  # noqa: N802
        if sum(self.locked.values()) + nbytes > self.room:
            return 2
        self.locked[pointer] = nbytes
        return 0

    def cudaHostUnregister(self, pointer):  # noqa: N802
        assert self.waits  # a copy may still run
        del self.locked[pointer]
        return 0


@pytest.fixture
def runtime(monkeypatch):
    found = Runtime(1000)

    def wait(_device):
        found.waits += 1

    monkeypatch.setattr(torch.cuda, "cudart", lambda: found)
    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    return found


def test_memory_is_locked_and_given_back(runtime):
    buffers = [HostBuffer(400, CUDA) for _ in range(2)]
    assert runtime.locked == {buffer.bytes.data_ptr(): 400 for buffer in buffers}
    view = buffers[0].bytes[10:20]
    del buffers[0]
    gc.collect()
    assert list(runtime.locked) == [buffers[0].bytes.data_ptr()]
    assert view.numel() == 10


def test_no_more_than_the_driver_locks(runtime):
    kept = HostBuffer(900, CUDA)
    with pytest.raises(ResourceError, match=r"does not lock .* more of host memory for weights \(CUDA error 2\)"):
        HostBuffer(200, CUDA)
    gc.collect()
    assert list(runtime.locked) == [kept.bytes.data_ptr()]


def test_a_cpu_needs_no_lock(runtime):
    HostBuffer(400, torch.device("cpu"))
    assert runtime.locked == {}
