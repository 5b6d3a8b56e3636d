"""Which latent frames a bank keeps, layer by layer. Pure: scores come from outside."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from reelray.proto.bank_rule import BankRule
from reelray.workers.memory.entries import Banked, Change, Drop, Frame, Pick, Share


@dataclass(kw_only=True)
class Bank:
    """The bank of one video; see `BankRule`.

    Args:
        rule: The recipe's.
        layers: Each chooses for itself.
        kept: Places, the one that was filled last at the end.
        candidate: Waits to be taken in, or, if it is taken in repeatedly, was the last one.
        due: Whether it is to be taken in before the next window.
        named: Places that have ever been filled.
    """

    rule: BankRule
    layers: int
    kept: list[Banked] = field(default_factory=list)
    candidate: Banked | None = None
    due: bool = False
    named: int = 0

    @property
    def is_full(self) -> bool:
        """Whether whatever comes in drives something out."""
        return len(self.kept) == self.rule.size

    def copy(self) -> "Bank":
        """A bank that goes on from here by itself."""
        return replace(self, kept=list(self.kept))

    def shown(self, *, hides: bool) -> Sequence[Banked]:
        """What a window attends; without the newest if it hides."""
        return self.kept[:-1] if hides else self.kept

    def stage(self, frame: Frame) -> tuple[Change, ...]:
        """Take a frame for the candidate."""
        gone = () if self.candidate is None else (Drop(entry=self.candidate),)
        self.candidate, self.due = self._name((frame.index,) * self.layers), True
        return (*gone, Share(entry=frame, into=self.candidate))

    def committed(self) -> None:
        """Note that frames were committed."""
        self.due = self.due or (self.rule.repeats and self.candidate is not None)

    def take_in(self, scores: Sequence[Sequence[float]]) -> tuple[Change, ...]:
        """Take in the candidate.

        Args:
            scores: Of each place that is filled, layer by layer; not looked at while there is room.
        """
        candidate = self.candidate
        assert candidate is not None
        changes = self._make_room(scores) if self.is_full else []
        self.due = False
        if self.rule.repeats:
            copy = self._name(candidate.frames)
            self.kept.append(copy)
            return (*changes, Share(entry=candidate, into=copy))
        self.candidate = None
        self.kept.append(candidate)
        return tuple(changes)

    def _make_room(self, scores: Sequence[Sequence[float]]) -> list[Change]:
        """Leave out what scores least, and of equals the newest; what comes after it moves up."""
        losers = [_find_last_least([row[layer] for row in scores]) for layer in range(self.layers)]
        old, self.kept = self.kept, []
        changes: list[Change] = []
        for place, (one, other) in enumerate(pairwise(old)):
            takes_other = tuple(loser <= place for loser in losers)
            pairs = zip(one.frames, other.frames, takes_other, strict=True)
            into = self._name(tuple(b if takes else a for a, b, takes in pairs))
            changes += [Pick(one=one, other=other, takes_other=takes_other, into=into), Drop(entry=one)]
            self.kept.append(into)
        return [*changes, Drop(entry=old[-1])]

    def _name(self, frames: tuple[int, ...]) -> Banked:
        self.named += 1
        return Banked(number=self.named, frames=frames)


def _find_last_least(scores: Sequence[float]) -> int:
    least = min(scores)
    return max(place for place, score in enumerate(scores) if score == least)
