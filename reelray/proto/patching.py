"""How much of a render the patch pipeline approximates."""

from dataclasses import dataclass

from reelray.proto.errors import InputError, UnsupportedError
from reelray.proto.layout import Layout

EXACT_STEPS = 4
"""Nearer to the exact clip than one or two where it was measured, and still not near; see `benchmarks/README.md`."""

NO_STREAMS = "patches are for whole clips, and this one is made chunk by chunk; several videos fill the ranks too"


@dataclass(frozen=True, kw_only=True, slots=True)
class Patching:
    """The patch pipeline (PipeFusion, arXiv 2405.14430): approximate.

    The tokens of a window are cut into patches, which follow each other through the ranks of the `pipe` axis. A patch
    attends the keys and values of the step before for the patches that come behind it.

    Args:
        patches: Patches of a window; 1 is exact.
        exact_steps: First steps of a clip that are exact; the latents change fastest there.

    Raises:
        InputError: A number is below 1; the first step has to leave keys.
    """

    patches: int
    exact_steps: int = EXACT_STEPS

    def __post_init__(self) -> None:
        for name in ("patches", "exact_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def __str__(self) -> str:
        steps = "the first step" if self.exact_steps == 1 else f"the first {self.exact_steps} steps"
        return f"approximate after {steps}: {self.patches} patches, keys one step old"


def check_patched_layout(layout: Layout) -> None:
    """Refuse a layout whose ranks patches cannot follow each other through.

    Raises:
        UnsupportedError: It does not split the layers, or splits the tokens too.
    """
    if layout.pipe == 1:
        raise UnsupportedError(
            f"layout {layout} does not split the layers, and patches flow through layers on several ranks: "
            "take one with pipe, such as pipe=2"
        )
    if layout.sequence > 1:
        raise UnsupportedError(
            f"layout {layout} splits the tokens, and patches need all tokens of their layers on one rank: "
            "leave ring and ulysses out"
        )
