"""What a memory deals in: names of what is remembered, and changes of it. No keys, no values."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """A latent frame of the video.

    Args:
        index: Its number, 0 first.
    """

    index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """Frames that have left, folded into one.

    Args:
        slot: Which of the means.
        version: How many frames are in it.
    """

    slot: int
    version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Banked:
    """A place of a bank: every layer keeps a latent frame of its own choice there.

    Args:
        number: Tells it from all others of the video.
        frames: Number of the latent frame, layer by layer.
    """

    number: int
    frames: tuple[int, ...]


Entry: TypeAlias = Frame | Mean | Banked


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """Forget an entry."""

    entry: Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """Make a new entry of two: kept * old + (1 - kept) * new.

    Args:
        old: What is there; None makes the new entry equal `new`.
        new: The frame that leaves.
        kept: Weight of the old one.
        into: Name of the result. `old` is forgotten, `new` is not.
    """

    old: Entry | None
    new: Frame
    kept: float
    into: Mean


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Hold an entry under another name too."""

    entry: Entry
    into: Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """Make a new entry of two, layer by layer one or the other; neither is forgotten.

    Args:
        one: Where `takes_other` is False.
        other: Where it is True.
        takes_other: Of each layer.
        into: Name of the result.
    """

    one: Frame | Mean | Banked
    other: Banked
    takes_other: tuple[bool, ...]
    into: Banked


Change: TypeAlias = Drop | Fold | Share | Pick
