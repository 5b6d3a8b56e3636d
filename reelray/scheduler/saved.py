"""What was written down of a request, so that other ranks can go on with it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from reelray.proto.commit_parts import CHUNK_PART, DECODE_PART, drop_forgotten, find_memory, is_history, memory_part
from reelray.proto.step_plan import Crew


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """What a request can go on from.

    Args:
        windows: Window steps done then.
        pieces: Pieces decoded then.
        parts: What the ranks wrote; None means the beginning.
        at_s: When, on the caller's clock; None before the first step of the present gang.
    """

    windows: int = 0
    pieces: int = 0
    parts: Mapping[str, bytes] | None = None
    at_s: float | None = None

    def written_by_all(self, now: "Saved") -> "Saved":
        """What all ranks wrote at once; inputs of remembered forwards are written once each."""
        known = {name: data for name, data in (self.parts or {}).items() if is_history(name)}
        return replace(now, parts=drop_forgotten({**known, **(now.parts or {})}))

    def written_by(self, crew: Crew, now: "Saved", past: Collection[str]) -> "Saved":
        """What one crew wrote.

        Crews write at different times, and their parts still fit together: of every chunk that is clean the latents are
        a part of their own, which is kept until the decoder's state that is written down lies behind it.

        Args:
            crew: Which.
            now: What it wrote, and how far it was.
            past: Names of parts that a decoder's state which is written now has behind it.
        """
        known = drop_forgotten({**self._lasting, **(now.parts or {})})
        if crew is Crew.DENOISE:
            return replace(self, windows=now.windows, parts=known, at_s=now.at_s)
        return replace(self, pieces=now.pieces, parts={name: data for name, data in known.items() if name not in past})

    @property
    def _lasting(self) -> dict[str, bytes]:
        """What stays true when more is written: not the memory itself, which a snapshot may have brought."""
        memory = {memory_part(first) for first, _ in find_memory(self.parts or {})}
        return {name: data for name, data in (self.parts or {}).items() if name not in memory}

    def parts_for(self, crew: Crew | None) -> Mapping[str, bytes] | None:
        """What the ranks of a crew need of it; None means all ranks."""
        if self.parts is None or crew is None:
            return self.parts
        # Those that only decode may be lent: they take up the chunk in work too.
        wanted = {CHUNK_PART, DECODE_PART} if crew is Crew.DECODE else self.parts.keys() - {DECODE_PART}
        return {name: data for name, data in self.parts.items() if name in wanted}
