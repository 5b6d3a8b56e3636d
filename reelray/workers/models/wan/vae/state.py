"""What a video's causal layers remember between calls: an explicit value that can be copied, stored and moved.

Slots are held channels-last or not as the VAE made them; bytes are always contiguous, and the header says how to lay
them out again.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Self

import safetensors.torch
import torch
from torch import Tensor

Slots = tuple[Tensor, ...]

_VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """How to cut a frame when memory is short.

    Args:
        tile: Latents per side of a tile.
        overlap: Latents that neighbouring tiles share, blended linearly; 0 shows seams.

    Raises:
        ValueError: If `tile` is below 1 or `overlap` is not below `tile`.
    """

    tile: int
    overlap: int = 4

    def __post_init__(self) -> None:
        if self.tile < 1:
            raise ValueError(f"tile={self.tile}: must be at least 1 latent")
        if not 0 <= self.overlap < self.tile:
            raise ValueError(f"overlap={self.overlap}: must be in [0, {self.tile}), below the tile")


@dataclass(eq=False, kw_only=True, slots=True)
class CausalState:
    """State of one video (or of a batch that runs in step) in one direction of the VAE.

    Args:
        batch: Videos that run in step.
        tiling: How frames are cut; None means not at all.
        latent_frames: Latent frames done so far.
        tiles: For each tile in row order, its layers' slots (B, C, reach, H, W); empty before the first call.
        weights: Names the weights that go with it, where these are no part of the checkpoint that is named already.
    """

    KIND: ClassVar[str] = ""

    batch: int = 1
    tiling: Tiling | None = None
    latent_frames: int = 0
    tiles: tuple[Slots, ...] = ()
    weights: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return sum(slot.nbytes for slots in self.tiles for slot in slots)

    def clone(self) -> Self:
        """An independent copy: going on with one leaves the other as it is."""
        return self.map_slots(Tensor.clone)

    def to(self, device: torch.device | str) -> Self:
        """The same state on another device."""
        return self.map_slots(lambda slot: slot.to(device))

    def map_slots(self, change: Callable[[Tensor], Tensor]) -> Self:
        """A state at the same point of the video whose slots are `change` of these."""
        tiles = tuple(tuple(change(slot) for slot in slots) for slots in self.tiles)
        return replace(self, tiles=tiles)

    def __eq__(self, other: object) -> bool:
        """Bit-equal slots, and the same position and tiling."""
        if not isinstance(other, CausalState) or self.facts != other.facts:
            return False
        pairs = zip(self.tiles, other.tiles, strict=True)
        return all(torch.equal(a, b) for mine, theirs in pairs for a, b in zip(mine, theirs, strict=True))

    __hash__ = None  # type: ignore[assignment]  # mutable

    def to_bytes(self) -> bytes:
        """Serialise as safetensors in memory; devices are not recorded."""
        named = {
            f"{tile}.{index}": slot.detach().cpu().contiguous()
            for tile, slots in enumerate(self.tiles)
            for index, slot in enumerate(slots)
        }
        facts = {**self.facts, "version": _VERSION, "channels_last": self._channels_last()}
        data: bytes = safetensors.torch.save(named, metadata={"state": json.dumps(facts)})
        return data

    @classmethod
    def from_bytes(cls, data: bytes, device: torch.device | str = "cpu") -> Self:
        """Undo `to_bytes`.

        Raises:
            ValueError: If the bytes are damaged, or hold another kind or version of state.
        """
        facts = _read_facts(data)
        try:
            named = safetensors.torch.load(data)
        except (ValueError, safetensors.SafetensorError) as error:
            raise ValueError(f"bytes do not hold a VAE state: {error}") from error
        if (facts["kind"], facts["version"]) != (cls.KIND, _VERSION):
            raise ValueError(f"a {facts['kind']} state of version {facts['version']}, wanted {cls.KIND} {_VERSION}")
        layout = torch.channels_last_3d if facts["channels_last"] else torch.contiguous_format
        slots = [
            named[f"{tile}.{index}"].to(device).contiguous(memory_format=layout)
            for tile, count in enumerate(facts["slots"])
            for index in range(count)
        ]
        return cls.build(facts, slots)

    @property
    def slots(self) -> Slots:
        """All slots, tile by tile."""
        return tuple(slot for slots in self.tiles for slot in slots)

    @classmethod
    def build(cls, facts: Mapping[str, Any], slots: Sequence[Tensor]) -> Self:
        """The state that has these `facts` and `slots`."""
        rest = iter(slots)
        tiles = tuple(tuple(islice(rest, count)) for count in facts["slots"])
        tiling = None if facts["tiling"] is None else Tiling(tile=facts["tiling"][0], overlap=facts["tiling"][1])
        return cls(
            batch=facts["batch"],
            tiling=tiling,
            latent_frames=facts["latent_frames"],
            tiles=tiles,
            weights=facts["weights"],
        )

    @property
    def facts(self) -> dict[str, object]:
        """What is known of the state without its slots; ready for JSON."""
        return {
            "kind": self.KIND,
            "batch": self.batch,
            "tiling": None if self.tiling is None else (self.tiling.tile, self.tiling.overlap),
            "latent_frames": self.latent_frames,
            "slots": [len(slots) for slots in self.tiles],
            "weights": self.weights,
        }

    def _channels_last(self) -> bool:
        return bool(self.slots) and all(s.is_contiguous(memory_format=torch.channels_last_3d) for s in self.slots)


def read_kind(data: bytes) -> str:
    """Which kind of state `CausalState.to_bytes` has written.

    Raises:
        ValueError: If the bytes are damaged.
    """
    return str(_read_facts(data)["kind"])


def _read_facts(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        facts: dict[str, Any] = json.loads(header["__metadata__"]["state"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"bytes do not hold a VAE state: {error}") from error
    return facts


class DecodeState(CausalState):
    """State of a video being decoded."""

    __slots__ = ()
    KIND = "decode"


class EncodeState(CausalState):
    """State of a video being encoded."""

    __slots__ = ()
    KIND = "encode"
