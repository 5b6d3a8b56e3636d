"""One window of a request on its way, whoever evaluates it: this rank alone, its forward shared, or a line of ranks.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from reelray.proto.step_plan import WindowStep
from reelray.workers.engine.window_input import WindowInput
from reelray.workers.models.joint_rows import Row
from reelray.workers.parallel.layer_pipeline import LineBranches, OpenStep
from reelray.workers.samplers.guidance import Branch

if TYPE_CHECKING:
    from reelray.workers.engine.held_request import HeldRequest


class OpenWindow:
    """What a window is evaluated on, and what becomes of it.

    Args:
        held: Whose window; it is awake, and begins to move here.
        window: The window; of what is remembered anew there is none.
    """

    def __init__(self, held: "HeldRequest", window: WindowStep) -> None:
        assert not window.recaches, "what is remembered anew takes forwards of its own"
        self.held, self.window = held, window
        held.forwards.turn_to(window)
        if window.is_clean_pass:
            rule, first = held.request.recipe.memory, window.first_latent_frame
            assert rule is not None
            latents_1CTHW = held.forwards.clean.find(range(first, first + window.latent_frames))
            timesteps: Sequence[float] = (rule.commit_timestep,) * window.latent_frames
        else:
            held.start(window)
            latents_1CTHW, timesteps = held.flight.latents(window), held.flight.timesteps(window)
        self._input = WindowInput(
            latents_1CTHW=latents_1CTHW,
            timesteps=timesteps,
            first=window.first_latent_frame,
            records=window.commits,
            level=window.level or 0,
        )

    def rows(self) -> Mapping[Branch, Row]:
        """The branches that `close` is to be given, for a forward that is shared; who is to remember is among them."""
        held, window = self.held, self.window
        memory = held.forwards.memory
        wanted = () if window.is_clean_pass else held.branches.wanted(self._weight)
        remembering = memory.branches if memory is not None and window.commits else ()
        return {branch: held.forwards.row(branch, self._input) for branch in dict.fromkeys([*wanted, *remembering])}

    def line(self) -> OpenStep:
        """Its forwards, for a line of ranks that split the layers; see `close_line`."""
        branches = self.held.branches
        assert isinstance(branches, LineBranches), "whoever has a pipeline evaluates by it"
        return branches.open(self.held.forwards.run(self._input), self._weight, shape=self._input.latents_1CTHW.shape)

    def close_line(self, step: OpenStep, predicted: Sequence[Tensor]) -> int:
        """Move the window by what a line has predicted; returns the transformer evaluations it took."""
        return self.held.end(self.window, step.finish(predicted))

    def close(self, predicted: Mapping[Branch, Tensor] | None = None) -> int:
        """Move the window, and remember what its forwards leave.

        Args:
            predicted: Of each of `rows`; None has the branches evaluated now.

        Returns:
            Transformer evaluations it took.
        """
        # Two forwards of batch one: one of batch two gives other row tiles (latents differ by 1e-6) and saved only
        # 7 to 15 % on a CPU.
        held, window, given = self.held, self.window, self._input
        evaluate, count = held.forwards.run(given, predicted), 0
        prediction_1CTHW = None
        if not window.is_clean_pass:
            prediction_1CTHW = held.branches.predict(evaluate, self._weight, shape=given.latents_1CTHW.shape)
        if window.commits:
            count = held.forwards.remember_others(evaluate)
            held.forwards.note(given.first, given.timesteps[0], given.latents_1CTHW, level=given.level)
        return count if prediction_1CTHW is None else count + held.end(window, prediction_1CTHW)

    @property
    def _weight(self) -> float:
        return self.held.flight.weight(self.window)
