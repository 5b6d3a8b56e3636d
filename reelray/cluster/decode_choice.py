"""Whether ranks of their own decode a render: as the user says, or as the plan finds fastest for this one video."""

from collections.abc import Iterator
from numbers import Integral

from reelray.proto.errors import InputError
from reelray.proto.layout import Layout
from reelray.proto.placement import Lending
from reelray.scheduler.plan.choice import DECODE_RANKS, DEDICATION_GAIN
from reelray.scheduler.plan.machine import MAX_GPUS
from reelray.scheduler.plan.prediction import Prediction

AUTO = "auto"


def read_decode_ranks(wish: object) -> int | None:
    """Read what was asked for; None lets the plan choose.

    Raises:
        InputError: It is neither ``auto`` nor a number of ranks.
    """
    if wish is None or wish == AUTO:
        return None
    if isinstance(wish, str) and wish.isdecimal():
        wish = int(wish)
    if isinstance(wish, bool) or not isinstance(wish, Integral) or not 0 <= int(wish) < MAX_GPUS:
        raise InputError(f"decode_ranks is {wish!r}; it must be 'auto' or a whole number of 0 to {MAX_GPUS - 1}")
    return int(wish)


def check_room(wish: int | None, ranks: int, layout: Layout | None) -> None:
    """Refuse decode ranks that leave too few of all ranks for the rest.

    Raises:
        InputError: Nobody, or fewer than the layout takes, would denoise.
    """
    if not wish:
        return
    needed = 1 if layout is None else layout.ranks
    if wish + needed > ranks:
        who = "somebody must denoise too" if layout is None else f"layout {layout} needs {needed} that denoise"
        raise InputError(f"decode_ranks is {wish} of {ranks} ranks in all, and {who}; take --gpus {wish + needed}")


def list_choices(wish: int | None, ranks: int, layout: Layout | None) -> Iterator[int]:
    """Numbers of decode ranks to compare, fewest first.

    Args:
        wish: The one asked for; None allows all that may pay.
        ranks: In all.
        layout: Of those that denoise, where it was asked for.
    """
    if wish is not None:
        yield wish
        return
    yield 0
    needed = 1 if layout is None else layout.ranks
    for count in DECODE_RANKS:
        if 2 * count <= ranks and count + needed <= ranks:
            yield count


def choose_decode(best: dict[int, Prediction]) -> int:
    """How many ranks decode: the fastest single video that fits; ranks of their own must be worth it.

    Args:
        best: The best row of each number of decode ranks, fewest first.
    """
    fitting = {count: row for count, row in best.items() if row.fits}
    chosen, *others = fitting or best
    for count in others if fitting else ():
        if fitting[count].clip_s * (1 + DEDICATION_GAIN) < fitting[chosen].clip_s:
            chosen = count
    return chosen


def explain_decode(best: dict[int, Prediction], chosen: int, lending: Lending | None = None) -> str | None:
    """Why these ranks decode; None where there was no choice.

    Args:
        best: The best row of each number of decode ranks.
        chosen: The number taken.
        lending: When those ranks help to denoise.
    """
    why = _explain_choice(best, chosen)
    return why if lending is None else f"{why}; all denoise as {lending.layout} until there is something to decode"


def _explain_choice(best: dict[int, Prediction], chosen: int) -> str | None:
    rivals = {count: row for count, row in best.items() if count != chosen}
    if not rivals:
        return f"decode {place_of(chosen)}, as asked" if chosen else None
    row = best[chosen]
    if not row.fits:
        return None
    share = row.decode_s / (row.text_s + row.denoise_s + row.decode_s)
    fitting = {count: rival for count, rival in rivals.items() if rival.fits}
    if not fitting:
        return f"decode {place_of(chosen)}: nothing else fits"
    second = 0 if 0 in fitting else min(fitting, key=lambda count: fitting[count].clip_s)
    times = f"{row.clip_s:.3g} s for the video against {fitting[second].clip_s:.3g} s {place_of(second)}"
    return f"decode {place_of(chosen)}: by the plan {times}, as decode is {share:.0%} of the work"


def place_of(decode_ranks: int) -> str:
    """In words."""
    match decode_ranks:
        case 0:
            return "on the ranks that denoise"
        case 1:
            return "on a rank of its own"
        case count:
            return f"on {count} ranks of their own"
