"""Memory that can still be had: what CUDA graphs keep is not free for anybody else."""

import pytest
import torch

from reelray.workers.models.captured import CudaRecorder
from reelray.workers.models.free_memory import free_bytes, spare_bytes

MIB = 2**20


def segment(total, active, *, pool=(0, 0), device=0):
    return {"device": device, "segment_pool_id": pool, "total_size": total, "active_size": active, "allocated_size": 0}


@pytest.mark.parametrize(
    ("segments", "spare"),
    [
        ([], 0),
        ([segment(20, 5), segment(8, 8)], 15),
        ([segment(20, 5), segment(100, 0, pool=(0, 1)), segment(100, 10, pool=(3, 0))], 15),
        ([segment(20, 5), segment(100, 0, device=1)], 15),
    ],
)
def test_spare_is_what_the_common_pool_of_this_device_does_not_use(segments, spare):
    assert spare_bytes(segments, 0) == spare


def test_a_cpu_has_what_the_machine_has(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 12.0}))
    assert free_bytes(torch.device("cpu")) == 12


def test_of_a_gpu_the_driver_knows_one_part_and_torch_the_other(monkeypatch):
    found = [segment(20, 5, device=2), segment(100, 0, pool=(0, 1), device=2)]
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _device: (1000, 5000))
    monkeypatch.setattr("torch.cuda.current_device", lambda: 2)
    monkeypatch.setattr("torch.cuda.memory_snapshot", lambda: found)
    assert free_bytes(torch.device("cuda")) == free_bytes(torch.device("cuda", 2)) == 1015


@pytest.mark.gpu
def test_what_a_graph_keeps_is_not_free_on_a_gpu():
    device, record = torch.device("cuda", torch.cuda.current_device()), CudaRecorder()
    row = torch.zeros(16 * MIB, device=device)

    def run():
        wide = row.repeat(8)  # 512 MiB, let go again when the result is there
        return wide.sum().reshape(1)

    run()
    torch.cuda.synchronize()
    before = free_bytes(device)
    recorded = record(run)
    after = free_bytes(device)
    assert before - after >= 500 * MIB
    block = torch.empty(512 * MIB, dtype=torch.uint8, device=device)
    assert free_bytes(device) <= after - 500 * MIB
    del block
    assert abs(free_bytes(device) - after) < 32 * MIB
    recorded.reset()
    record.renew()
    torch.cuda.empty_cache()
    assert free_bytes(device) >= before - 32 * MIB
