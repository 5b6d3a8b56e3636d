"""Which windows share a forward: a rule for when it pays, and who goes along.

A device takes about as long for few tokens as for `knee_tokens`: it launches the same kernels, reads the same weights,
and most of it idles. Beyond that time grows with the tokens, and a joint forward takes as long as its windows one after
the other. So for windows of S tokens, n of them together take max(knee, n S) against n max(knee, S) apart, which is the
least for a window when n S reaches the knee.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reelray.proto.model_facts import ModelFacts
from reelray.proto.request import RenderRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reelray.proto.step_plan import WindowStep
    from reelray.scheduler.rollout import Rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class Batching:
    """When windows of different requests share a forward.

    Args:
        most: Windows that share one at most; 1 lets each have forwards of its own.
        knee_tokens: Tokens up to which a forward takes no longer than a smaller one; of both branches of guidance.
        invariant: Whether each request gets the bits that it gets alone: rows of a forward then go through every layer
            one by one.
    """

    most: int = 1
    knee_tokens: int = 1024
    invariant: bool = False

    def __post_init__(self) -> None:
        for name in ("most", "knee_tokens"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

    def gain(self, windows: int, tokens: int) -> float:
        """How many times longer windows take one after the other than together.

        Args:
            windows: How many.
            tokens: Of each, in all its branches.
        """
        return windows * max(self.knee_tokens, tokens) / max(self.knee_tokens, windows * tokens)

    def choose(self, tokens: int) -> int:
        """How many windows of so many tokens share a forward: as many as the device takes at the price of one."""
        return max(1, min(self.most, self.knee_tokens // tokens))


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowClass:
    """What windows have in common that may share a forward.

    Args:
        latent_frames: Of the window.
        width: Of its pictures, in pixels.
        height: The same.
        guided: Whether there are two branches.
    """

    latent_frames: int
    width: int
    height: int
    guided: bool

    @classmethod
    def of(cls, request: RenderRequest, latent_frames: int) -> "WindowClass":
        """The class of a window of a request."""
        guided = request.recipe.guidance.needs_unconditional
        return cls(latent_frames=latent_frames, width=request.width, height=request.height, guided=guided)

    def tokens(self, facts: ModelFacts) -> int:
        """Of its branches together."""
        rows, columns = facts.latent_size(self.width, self.height)
        _, patch_rows, patch_columns = facts.patch
        places = (rows // patch_rows) * (columns // patch_columns)
        return self.latent_frames * places * (1 + self.guided)


def count_seats(batching: Batching, request: RenderRequest, facts: ModelFacts) -> int:
    """How many windows of a request and of others like it share a forward at most.

    Args:
        batching: The rule.
        request: The request.
        facts: Of its model.
    """
    recipe, chunk = request.recipe, request.recipe.chunking.latent_frames
    whole = facts.latent_frames(request.frames, endless=recipe.is_endless)
    frames = whole if chunk is None else chunk * recipe.in_flight
    return batching.choose(WindowClass.of(request, frames).tokens(facts))


def find_class(rollout: "Rollout") -> WindowClass | None:
    """What its next window has in common with those that may share its forward; None where it goes alone."""
    window, request = rollout.next_window(), rollout.request
    if window is None or window.recaches or rollout.suspect:
        return None
    if request.patching is not None or request.sparsity is not None:
        return None
    return WindowClass.of(request, window.latent_frames)


def gather(
    keepers: "Sequence[Rollout]", others: "Sequence[Rollout]", next_of: "Callable[[Rollout], WindowStep | None]"
) -> "list[tuple[Rollout, WindowStep]]":
    """Whose windows are moved in one step of a lane, in the order of their turns.

    Whoever has begun a chunk goes on until it is over, and those that share its forwards with him. Others begin beside
    them in the order of their turns and in no other: when the first of them cannot share the forward, nobody begins
    until those that have begun are through, and then it is his turn.

    Args:
        keepers: Those that keep their turn and can go on.
        others: The others.
        next_of: The window that may be moved now.
    """
    ready = [(one, window) for one in others if (window := next_of(one)) is not None]
    if not keepers:
        return _begin_together(ready)
    lead = keepers[0]
    seats = lead.seats
    seated = [one for one in keepers if one is lead or _shares(lead, one)][:seats]
    going = [(one, window) for one in seated if (window := next_of(one)) is not None]
    for one, window in ready[: seats - len(seated)]:
        if not _shares(lead, one):
            break
        going.append((one, window))
    return going


def _shares(lead: "Rollout", other: "Rollout") -> bool:
    """Whether another's next window may share a forward with this one's; as many must have places for their memory."""
    alike = find_class(lead)
    return alike is not None and find_class(other) == alike and other.seats == lead.seats


def _begin_together(ready: "list[tuple[Rollout, WindowStep]]") -> "list[tuple[Rollout, WindowStep]]":
    """The first, and those behind it that can share its forward; who cannot is the first before long."""
    if not ready:
        return []
    lead, _ = ready[0]
    joint = [pair for pair in ready if _shares(lead, pair[0])]
    return joint[: lead.seats] or ready[:1]
