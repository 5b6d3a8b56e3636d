"""Which frames of an adaptive sink give their places away, layer by layer. Pure: likeness comes from outside."""

from collections.abc import Callable, Sequence

from reelray.workers.memory.entries import Banked, Change, Drop, Entry, Frame, Pick

Name = Callable[[tuple[int, ...]], Banked]
"""Makes an entry with a frame for each layer."""


def replace_unlike(
    sink: list[Entry], candidate: Banked, likeness: Sequence[Sequence[float]], least: float, name: Name
) -> tuple[Change, ...]:
    """Let the candidate take the place that it is least like, in each layer where that is not like it at all.

    Args:
        sink: Places; changed.
        candidate: The newest frame.
        likeness: Of the candidate to each place, layer by layer.
        least: Below it a place is given away.
        name: Names new entries.
    """
    layers = [[row[layer] for row in likeness] for layer in range(len(candidate.frames))]
    taken = [of.index(min(of)) if min(of) < least else None for of in layers]
    changes: list[Change] = []
    for place, old in enumerate(sink):
        takes = tuple(choice == place for choice in taken)
        if any(takes):
            there = zip(_frames(old, len(takes)), candidate.frames, takes, strict=True)
            into = name(tuple(new if takes_it else kept for kept, new, takes_it in there))
            changes += [Pick(one=old, other=candidate, takes_other=takes, into=into), Drop(entry=old)]
            sink[place] = into
    return (*changes, Drop(entry=candidate))


def _frames(entry: Entry, layers: int) -> tuple[int, ...]:
    if isinstance(entry, Banked):
        return entry.frames
    assert isinstance(entry, Frame), "an adaptive sink has frames, or places of which each layer chooses"
    return (entry.index,) * layers
