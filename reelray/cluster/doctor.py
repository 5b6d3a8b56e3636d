"""Looks at a machine and says whether it can render, and what would help."""

import importlib.metadata
import importlib.util
import platform
import shutil
import tempfile
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from reelray.cluster.machine import Cpu, Gpu, list_gpus, memory_bytes, read_cpu
from reelray.cluster.services import Services
from reelray.cluster.video_format import VideoFormat
from reelray.cluster.video_writer import VideoSpec, load_writer
from reelray.proto.errors import ReelrayError

REQUIRED = ("torch", "ray", "diffusers", "transformers", "safetensors", "av", "numpy", "pillow")
OPTIONAL = {"triton": "gpu", "xfuser": "gpu", "grpcio": "serve", "redis": "serve"}
"""Distribution to the extra that installs it."""
ENCODERS = {"h264": VideoFormat.MP4, "vp9": VideoFormat.WEBM}
SCARCE_DISK_BYTES = 2 * 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that is not as it should be.

    Args:
        problem: What.
        remedy: What to do, such as a command.
        fatal: No video can be rendered until then.
    """

    problem: str
    remedy: str
    fatal: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineReport:
    """What `reelray doctor` found.

    Args:
        system: Operating system.
        python: Version.
        cpu: Processor.
        memory_bytes: This process may use at most.
        gpus: As the driver reports them.
        data_dir: Where reelray keeps files.
        disk_free_bytes: Free there.
        versions: Distribution to version; None means it is not installed.
        nccl: Version that torch was built with, if any.
        encoders: Video codec to whether it works.
        models: Names of usable checkpoints.
        findings: What is wrong.
    """

    system: str
    python: str
    cpu: Cpu
    memory_bytes: int
    gpus: tuple[Gpu, ...]
    data_dir: str
    disk_free_bytes: int
    versions: dict[str, str | None]
    nccl: str | None
    encoders: dict[str, bool]
    models: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def can_render(self) -> bool:
        """True when nothing fatal was found."""
        return not any(finding.fatal for finding in self.findings)

    def as_json(self) -> dict[str, object]:
        """JSON-ready."""
        return {"can_render": self.can_render, **asdict(self)}


def inspect_machine(services: Services) -> MachineReport:
    """Look at everything; nothing here fails, findings say what is wrong."""
    versions = {name: _version(name) for name in (*REQUIRED, *OPTIONAL)}
    gpus = tuple(list_gpus())
    encoders = {name: _encoder_works(video_format) for name, video_format in ENCODERS.items()} if versions["av"] else {}
    settings_finding, data_dir, models = _look_for_models(services)
    findings = [
        *settings_finding,
        *_check_versions(versions, gpus),
        *_check_encoders(encoders),
        *_check_gpu_use(versions, gpus),
        *_check_folder(data_dir),
        *_check_models(models, known=not settings_finding),
    ]
    return MachineReport(
        system=platform.platform(),
        python=platform.python_version(),
        cpu=read_cpu(),
        memory_bytes=memory_bytes(),
        gpus=gpus,
        data_dir=str(data_dir),
        disk_free_bytes=_free_bytes(data_dir),
        versions=versions,
        nccl=_nccl_version(gpus),
        encoders=encoders,
        models=models,
        findings=tuple(findings),
    )


def describe_machine(report: MachineReport) -> str:
    """The report as text, verdict last."""
    cpu = report.cpu
    features = f" ({', '.join(cpu.features)})" if cpu.features else ""
    lines = [
        f"system    {report.system}, Python {report.python}",
        f"cpu       {cpu.model}, {cpu.cores} cores{features}",
        f"memory    {report.memory_bytes / 1e9:.1f} GB",
        f"disk      {report.disk_free_bytes / 1e9:.1f} GB free for {report.data_dir}",
        *(
            f"gpu       {gpu.name}, {gpu.memory_bytes / 1e9:.0f} GB, capability {gpu.capability}, driver {gpu.driver}"
            for gpu in report.gpus
        ),
        *([] if report.gpus else ["gpu       none"]),
        *([f"nccl      {report.nccl}"] if report.nccl else []),
        "packages  " + ", ".join(f"{name} {version}" for name, version in report.versions.items() if version),
        "encoders  " + (", ".join(name for name, works in report.encoders.items() if works) or "none"),
        "models    " + (", ".join(report.models) or "none"),
        "",
        *(
            f"{'ERROR' if finding.fatal else 'note '}  {finding.problem}: {finding.remedy}"
            for finding in report.findings
        ),
        "This machine can render." if report.can_render else "This machine cannot render yet.",
    ]
    return "\n".join(lines)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _encoder_works(video_format: VideoFormat) -> bool:
    try:
        writer = load_writer(video_format)
        with tempfile.TemporaryDirectory() as folder:
            spec = VideoSpec(width=64, height=64, frames=1, fps=Fraction(16))
            video = writer(Path(folder) / "probe", spec)
            video.write(np.zeros((1, 64, 64, 3), np.uint8))
            video.close()
    except (ImportError, OSError, ValueError):
        return False
    return True


def _nccl_version(gpus: tuple[Gpu, ...]) -> str | None:
    if not gpus or importlib.util.find_spec("torch") is None:
        return None
    import torch  # noqa: PLC0415  takes seconds, and only a GPU machine needs to know

    if not torch.distributed.is_nccl_available():
        return None
    return ".".join(str(part) for part in torch.cuda.nccl.version())  # type: ignore[no-untyped-call]


def _look_for_models(services: Services) -> tuple[list[Finding], Path, tuple[str, ...]]:
    from reelray.cluster.model_catalog import ModelEntry  # noqa: PLC0415  imports stay where they can be reported

    try:
        settings = services.load_settings()
        found = services.open_catalog(settings).scan()
    except ReelrayError as error:
        return [Finding(problem="settings", remedy=error.message, fatal=True)], Path.home(), ()
    return [], settings.data_dir, tuple(model.name for model in found if isinstance(model, ModelEntry))


def _check_versions(versions: dict[str, str | None], gpus: tuple[Gpu, ...]) -> list[Finding]:
    findings = [
        Finding(problem=f"{name} is not installed", remedy="pip install reelray", fatal=True)
        for name in REQUIRED
        if versions[name] is None
    ]
    for name, extra in OPTIONAL.items():
        if versions[name] is None and (extra != "gpu" or gpus):
            findings.append(Finding(problem=f"{name} is not installed", remedy=f"pip install 'reelray[{extra}]'"))
    return findings


def _check_encoders(encoders: dict[str, bool]) -> list[Finding]:
    return [
        Finding(problem=f"the {name} encoder does not work", remedy="pip install --force-reinstall av")
        for name, works in encoders.items()
        if not works
    ]


def _check_gpu_use(versions: dict[str, str | None], gpus: tuple[Gpu, ...]) -> list[Finding]:
    if not gpus or not versions["torch"]:
        return []
    import torch  # noqa: PLC0415  as above

    if torch.cuda.is_available():
        return []
    return [
        Finding(
            problem=f"torch {versions['torch']} does not see the GPU",
            remedy="install a CUDA build of torch that fits the driver, see https://pytorch.org/get-started",
        )
    ]


def _check_folder(data_dir: Path) -> list[Finding]:
    folder, remedy = _existing_parent(data_dir), "set REELRAY_DATA_DIR to a folder of yours"
    findings = []
    try:
        in_the_way = next((part for part in (data_dir, *data_dir.parents) if part.exists() and not part.is_dir()), None)
        if in_the_way is not None:
            findings.append(Finding(problem=f"data folder {data_dir}: {in_the_way} is a file", remedy=remedy))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        findings.append(Finding(problem=f"data folder {data_dir}: {error.strerror}", remedy=remedy))
    if _free_bytes(data_dir) < SCARCE_DISK_BYTES:
        findings.append(Finding(problem=f"the disk of {data_dir} is nearly full", remedy="free some space"))
    return findings


def _check_models(models: tuple[str, ...], *, known: bool) -> list[Finding]:
    if models or not known:
        return []
    remedy = "put a checkpoint folder into a folder named by REELRAY_MODEL_PATH (see reelray models)"
    return [Finding(problem="no usable checkpoint was found", remedy=remedy, fatal=True)]


def _existing_parent(path: Path) -> Path:
    return next((parent for parent in (path, *path.parents) if parent.is_dir()), Path.cwd())


def _free_bytes(data_dir: Path) -> int:
    return shutil.disk_usage(_existing_parent(data_dir)).free
