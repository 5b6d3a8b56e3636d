"""One window of a request that shares its forwards with others: a row for each branch, evaluated elsewhere.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from reelray.proto.step_plan import WindowStep
from reelray.workers.engine.held_request import HeldRequest

if TYPE_CHECKING:
    from reelray.workers.models.joint_rows import Row
    from reelray.workers.samplers.guidance import Branch


class OpenRows:
    """A window on its way: what it has evaluated, and what becomes of it.

    Args:
        held: Whose window; it begins to move here.
        window: The window, which remembers nothing anew.

    Attributes:
        rows: Its branches; where the forward is remembered, all that remember.
    """

    def __init__(self, held: HeldRequest, window: WindowStep) -> None:
        assert not window.recaches, "what is remembered anew takes forwards of its own"
        self.window, self.held = window, held
        if held.rests:
            held.wake()
        held.forwards.turn_to(window)
        memory = held.forwards.memory
        if window.is_clean_pass:
            rule = held.request.recipe.memory
            assert rule is not None
            first = window.first_latent_frame
            self._latents_1CTHW = held.forwards.clean.find(range(first, first + window.latent_frames))
            self._timesteps: Sequence[float] = (rule.commit_timestep,) * window.latent_frames
            wanted: Sequence[Branch] = ()
        else:
            held.start(window)
            self._latents_1CTHW, self._timesteps = held.flight.latents(window), held.flight.timesteps(window)
            wanted = held.branches.wanted(held.flight.weight(window))
        if memory is not None:
            memory.turn_to(window.level or 0)
        remembering = memory.branches if memory is not None and window.commits else ()
        self.rows: Mapping[Branch, Row] = {
            branch: held.forwards.row(
                branch,
                self._latents_1CTHW,
                window.first_latent_frame,
                timesteps=self._timesteps,
                records=window.commits,
            )
            for branch in dict.fromkeys([*wanted, *remembering])
        }

    def close(self, predicted: Sequence[Tensor]) -> int:
        """Move the window, and remember what its forwards have left.

        Args:
            predicted: Of its rows, in their order.

        Returns:
            Transformer evaluations it took.
        """
        held, window = self.held, self.window
        self._remember()
        if not window.is_clean_pass:
            found = dict(zip(self.rows, predicted, strict=True))
            weight, shape = held.flight.weight(window), self._latents_1CTHW.shape
            held.end(window, held.branches.predict(found.__getitem__, weight, shape=shape))
        return len(self.rows)

    def _remember(self) -> None:
        window, forwards = self.window, self.held.forwards
        if window.commits:
            assert forwards.memory is not None
            first, level = window.first_latent_frame, window.level or 0
            for branch in self.rows:
                forwards.memory.commit(branch, first, window.latent_frames)
            forwards.note(first, self._timesteps[0], self._latents_1CTHW, level=level)
