"""How a client reads checkpoints: their description here, their weights in the engine."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from reelray.cluster.model_catalog import ModelEntry
from reelray.proto.errors import ResourceError
from reelray.proto.residency import Blocks, Networks, Residency, WeightShare
from reelray.workers.models.registry import describe_checkpoint, open_checkpoint

if TYPE_CHECKING:
    from reelray.workers.models.api import VideoModel

RESIDENT = Residency()


def describe_model(path: Path) -> ModelEntry:
    """Describe a checkpoint folder without its weights and without torch.

    Raises:
        CheckpointError: The folder is not a checkpoint, or is damaged.
    """
    description = describe_checkpoint(path)
    return ModelEntry(
        name=path.resolve().name,
        path=path,
        layout=description.layout,
        recipe=description.recipe,
        facts=description.facts,
        weights_bytes=description.weight_bytes,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointLoader:
    """Opens a checkpoint where it is called, which may be another process.

    Args:
        path: Absolute folder.
        device: ``auto``, ``cpu`` or ``cuda``.
        residency: Where the weights are while they do not compute.
        share: What the process keeps of sharded weights.
        page_bytes: What streams may take of the memory of a device; None lets the engine find out.
        networks: What the process has use for.
        host_bytes: What streams that rest may take of the host's memory; None means half of what is free.
        preview: File of a preview decoder; None takes the checkpoint's own, if it has one.
    """

    path: Path
    device: str
    residency: Residency = RESIDENT
    share: WeightShare | None = None
    page_bytes: int | None = None
    networks: Networks = Networks.ALL
    host_bytes: int | None = None
    preview: Path | None = None

    @property
    def shares(self) -> bool:
        """See `reelray.workers.engine.seams.SharingLoader`."""
        return self.residency.blocks is Blocks.SHARDED

    def for_share(self, share: WeightShare) -> "CheckpointLoader":
        """See `reelray.workers.engine.seams.SharingLoader`."""
        return replace(self, share=share)

    def for_networks(self, networks: Networks) -> "CheckpointLoader":
        """See `reelray.workers.engine.seams.PartLoader`."""
        return replace(self, networks=networks)

    def __call__(self) -> "VideoModel":
        """Load the weights.

        Raises:
            CheckpointError: They are not usable.
            ResourceError: The device is not there.
            InputError: Weights are to be sharded, and no other rank has them.
        """
        device = choose_device(self.device)
        model = open_checkpoint(
            self.path,
            device=device,
            residency=self.residency,
            share=self.share,
            networks=self.networks,
            preview=self.preview,
        )
        model.page_bytes, model.host_bytes = self.page_bytes, self.host_bytes
        return model


def choose_device(device: str) -> str:
    """Resolve ``auto``.

    Raises:
        ResourceError: ``cuda`` was asked for and torch sees no GPU.
    """
    import torch  # noqa: PLC0415  only the process that runs the model needs it

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise ResourceError("device is cuda, but torch sees no GPU; use --device cpu, or look at `reelray doctor`")
    return "cuda"
