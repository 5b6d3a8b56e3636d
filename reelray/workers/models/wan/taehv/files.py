"""Reads a TAEHV file in the layout of `taew2_1`: `.safetensors`, or a `.pth` that holds tensors alone."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from reelray.proto.errors import CheckpointError, WeightsError
from reelray.workers.models.weight_files import digest_files

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from reelray.workers.models.wan.taehv.config import TaehvConfig
    from reelray.workers.models.wan.taehv.model import Taehv
    from reelray.workers.weights.source import TensorFacts, TensorSource

FOLDER = "taehv"
"""Where a checkpoint keeps one, beside its other parts."""
SUFFIXES = (".safetensors", ".pth", ".pt")


def find_taehv_file(folder: Path) -> Path | None:
    """The tiny decoder of a checkpoint; None where it has none.

    Raises:
        CheckpointError: Its folder holds no weight file, or several.
    """
    place = folder / FOLDER
    if not place.is_dir():
        return None
    files = sorted(file for file in place.iterdir() if file.suffix in SUFFIXES)
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise CheckpointError(
            f"{place}: needs one weight file ({', '.join(SUFFIXES)}), such as taew2_1.pth; has {found}"
        )
    return files[0]


def check_taehv_file(file: Path) -> None:
    """Refuse a file that cannot be one.

    Raises:
        WeightsError: It is missing, or has another ending.
    """
    if not file.is_file():
        raise WeightsError(f"{file}: no such file; a preview decoder is a file such as taew2_1.pth")
    if file.suffix not in SUFFIXES:
        raise WeightsError(f"{file}: a preview decoder is a {', '.join(SUFFIXES)} file, such as taew2_1.pth")


def load_taehv(file: Path, *, latent_channels: int, device: "torch.device | str", dtype: "torch.dtype") -> "Taehv":
    """Load a tiny decoder.

    Args:
        file: Its weights; those of an encoder in it are left unread.
        latent_channels: Of the model whose latents it is to decode.
        device: Where it computes.
        dtype: Of weights and activations.

    Raises:
        WeightsError: The file is missing or damaged, is none of this layout, or is one for other latents.
    """
    from reelray.workers.models.wan.taehv.model import Taehv  # noqa: PLC0415  descriptions need no torch
    from reelray.workers.models.wan.taehv.names import rename_tensor  # noqa: PLC0415
    from reelray.workers.models.weight_loading import build_empty, fill_from, open_files  # noqa: PLC0415

    check_taehv_file(file)
    digest = digest_files([file], file.parent)
    with open_files([file]) as opened:
        config = _read_config(opened.tensors, file, latent_channels)
        source = _LastFrames(opened, config)
        model = build_empty(lambda: Taehv(config, digest=digest), device=device, dtype=dtype)
        fill_from(source, model.network, rename_tensor, str(file))
    return model.to_inference(device, dtype)


class _LastFrames:
    """A `TensorSource` that reads of each growth the frames that Wan2.1 has.

    Files of the family may have been trained to make more frames of one; the channels of the last ones then stand for
    the frames that are left.
    """

    def __init__(self, source: "TensorSource", config: "TaehvConfig") -> None:
        from reelray.workers.models.wan.taehv.config import RATES  # noqa: PLC0415
        from reelray.workers.models.wan.taehv.names import grow_index  # noqa: PLC0415

        self._source = source
        wanted = {
            f"decoder.{grow_index(stage)}.conv.weight": rate * width
            for stage, (rate, width) in enumerate(zip(RATES, config.widths, strict=False))
        }
        self.tensors: dict[str, TensorFacts] = {
            name: _cut(facts, wanted[name]) if name in wanted else facts for name, facts in source.tensors.items()
        }

    def read(self, name: str, out: "Tensor") -> None:
        """See `TensorSource`."""
        stored = self._source.tensors[name].shape
        if stored == tuple(out.shape):
            self._source.read(name, out)
            return
        whole = out.new_empty(stored)
        self._source.read(name, whole)
        out.copy_(whole[-out.shape[0] :])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return


def _cut(facts: "TensorFacts", rows: int) -> "TensorFacts":
    stored, *rest = facts.shape
    return replace(facts, shape=(rows, *rest)) if stored > rows and stored % rows == 0 else facts


def _read_config(tensors: Mapping[str, "TensorFacts"], file: Path, latent_channels: int) -> "TaehvConfig":
    """The sizes that a file has; what else it holds is compared with them.

    Raises:
        WeightsError: It has another layout, or is made for other latents or pictures.
    """
    from reelray.workers.models.wan.taehv.config import COLOURS, RATES, TaehvConfig  # noqa: PLC0415
    from reelray.workers.models.wan.taehv.names import ENTRY, EXIT, grow_index  # noqa: PLC0415

    names = [f"decoder.{ENTRY}.weight", *(f"decoder.{grow_index(stage) + 1}.weight" for stage in range(len(RATES)))]
    names.append(f"decoder.{EXIT}.weight")
    shapes = [tensors[name].shape if name in tensors else () for name in names]
    for name, shape in zip(names, shapes, strict=True):
        if len(shape) != 4:
            raise WeightsError(f"{file}: is no tiny decoder in the layout of taew2_1: it has no convolution {name}")
    if shapes[0][1] != latent_channels:
        raise WeightsError(
            f"{file}: decodes latents of {shapes[0][1]} channels, and this model's have {latent_channels}; Wan2.1's "
            "is taew2_1"
        )
    if shapes[-1][0] != COLOURS:
        raise WeightsError(f"{file}: makes {shapes[-1][0]} values of a pixel, not {COLOURS}; Wan2.1's is taew2_1")
    widths = tuple(shape[0] for shape in shapes[:-1])
    return TaehvConfig(latent_channels=latent_channels, widths=(widths[0], widths[1], widths[2], widths[3]))
