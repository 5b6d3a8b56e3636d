"""What this machine has: processor, memory, GPUs. Nothing heavy is imported to find out."""

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16", "sve")
"""Flags that decide how fast matrices multiply on a CPU."""
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
GPU_FIELDS = ("name", "memory.total", "compute_cap", "driver_version")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU as the driver reports it.

    Args:
        name: Such as ``NVIDIA H200``.
        memory_bytes: Of the device.
        capability: Compute capability, such as ``9.0``.
        driver: Driver version.
    """

    name: str
    memory_bytes: int
    capability: str
    driver: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cpu:
    """The processor: marketing name, logical cores this process may use, and flags of interest."""

    model: str
    cores: int
    features: tuple[str, ...]


def read_cpu() -> Cpu:
    """Read the processor's name and flags."""
    model, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                model = value
            elif key in {"flags", "Features"}:
                flags = set(value.split())
    except OSError:
        pass  # not Linux: the name alone is known
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count() or 1
    return Cpu(model=model, cores=cores, features=tuple(name for name in CPU_FEATURES if name in flags))


def memory_bytes() -> int:
    """Memory this process may use at most: the machine's, or its container's if that is less."""
    limits = [psutil.virtual_memory().total]
    for path in CGROUP_LIMITS:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):
            continue  # no such file, or "max"
    return min(limits)


def list_gpus() -> list[Gpu]:
    """GPUs that nvidia-smi shows; none when it is missing or fails."""
    command = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603  fixed
    except (OSError, subprocess.SubprocessError):
        return []
    return [_parse_gpu(line) for line in done.stdout.splitlines() if line.count(",") == len(GPU_FIELDS) - 1]


def _parse_gpu(line: str) -> Gpu:
    name, memory_mib, capability, driver = (part.strip() for part in line.split(","))
    memory = int(float(memory_mib) * 2**20) if memory_mib.replace(".", "").isdecimal() else 0
    return Gpu(name=name, memory_bytes=memory, capability=capability, driver=driver)
