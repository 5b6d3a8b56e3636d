"""What a rank of a gang does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from reelray.proto.commit_parts import DECODE_PART, find_memory


class Handover(Protocol):
    """Carries clean latents from the ranks that denoise to those that decode, which are others."""

    def send(self, latents_1CTHW: Tensor) -> None:
        """Send the clean latents of a chunk; every receiving rank calls `receive` for it, in the same order."""
        ...

    def receive(self, shape_1CTHW: tuple[int, ...]) -> Tensor:
        """The clean latents of the next chunk, float32."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """What one rank does of a step, and what of it goes into its report.

    Args:
        denoises: Moves windows.
        decodes: Decodes pieces.
        tells_denoise: Reports what comes of windows.
        tells_decode: Reports frames and what comes of pieces.
        helps: Only decodes, but may be lent to those that denoise: it knows the text of every request.
        handover: Set where others decode than denoise, on the rank that sends and on those that receive.
    """

    denoises: bool = True
    decodes: bool = True
    tells_denoise: bool = True
    tells_decode: bool = True
    helps: bool = False
    handover: Handover | None = None

    def choose(self, parts: Mapping[str, bytes]) -> dict[str, bytes]:
        """Those of these parts of a commit that this rank tells."""
        return {name: data for name, data in parts.items() if self.tells(name)}

    def tells(self, part: str) -> bool:
        """Whether this rank tells a part of a commit, of which every rank that does the same has one."""
        if find_memory({part: b""}):
            return self.denoises  # ranks that share heads have different ones
        if not self.denoises:
            return self.tells_decode
        return self.tells_decode if part == DECODE_PART else self.tells_denoise
