"""The forwards of one request: over what its chunks remember, and for what they leave in memory.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from reelray.proto.recipe import Commit
from reelray.proto.request import RenderRequest
from reelray.proto.step_plan import WindowStep, find_history, history_part
from reelray.workers.engine.memory_rooms import MemoryRooms
from reelray.workers.engine.packing import pack, unpack
from reelray.workers.engine.station import Station
from reelray.workers.engine.stream_memory import Committed, StreamMemory
from reelray.workers.models.api import VideoModel
from reelray.workers.samplers.guidance import Branch

_HISTORY, _CLEAN = "history.", "clean."
Evaluate = Callable[[Branch], Tensor]


@dataclass(kw_only=True, eq=False)
class Forwards:
    """Evaluates windows of one request.

    Args:
        request: Whose.
        model: By what.
        rooms: Where streams are remembered.
        texts: Context of each branch's prompt.
        image: Context of a first frame.
    """

    request: RenderRequest
    model: VideoModel
    rooms: MemoryRooms
    texts: Sequence[Any] = ()
    image: Sequence[Any] | None = None
    _memory: StreamMemory | None = field(default=None, init=False)
    _past: list[Committed] = field(default_factory=list, init=False)  # what a memory is yet to be made from
    _saved: int = field(default=0, init=False)  # how much of the history was written down
    _clean: tuple[int, Tensor] | None = field(default=None, init=False)  # a chunk that is yet to be remembered

    def begin(self, station: Station) -> None:
        """Remember here from now on, what was remembered elsewhere included.

        Raises:
            ResourceError: There is no room for it.
        """
        if self._memory is None:
            self._memory = self.rooms.open(self.request, station)
            self._remember_again()

    def release(self) -> None:
        """Give back what others share."""
        if self._memory is not None:
            self._memory.close()
        self._memory = None

    def run(self, latents_1CTHW: Tensor, timestep: float, first: int, *, commits: bool) -> Evaluate:
        """What evaluates a branch on a window, and remembers the window if it commits.

        Args:
            latents_1CTHW: Of the window.
            timestep: Of all its latent frames.
            first: Its first latent frame.
            commits: Whether the forward is remembered.
        """

        def evaluate(branch: Branch) -> Tensor:
            model, memory, length = self.model, self._memory, latents_1CTHW.shape[2]
            positions: Sequence[int] = range(first, first + length)
            view = None
            if memory is not None:
                positions = memory.positions(branch, first, length)
                view = memory.view(branch, first, length, records=commits)
            prediction_1CTHW = model.denoise(
                latents_1CTHW,
                torch.full((1, length), timestep, dtype=torch.float32, device=model.device),
                [self.texts[branch]],
                positions_BT=torch.tensor([positions], device=model.device),
                image=self.image,
                view=view,
            )
            if memory is not None and commits:
                memory.commit(branch, first, length)
            return prediction_1CTHW

        return evaluate

    def note(self, first: int, timestep: float, latents_1CTHW: Tensor) -> None:
        """Keep the input of a forward that was remembered, so that it can be repeated."""
        assert self._memory is not None
        self._memory.note(Committed(first=first, timestep=timestep, latents_1CTHW=latents_1CTHW.cpu()))

    def keep_clean(self, first: int, latents_1CTHW: Tensor) -> None:
        """Keep a clean chunk for its clean pass, where the recipe makes one."""
        rule = self.request.recipe.memory
        if rule is not None and rule.commit is Commit.CLEAN:
            self._clean = first, latents_1CTHW

    def remember(self, window: WindowStep) -> int:
        """Evaluate a clean chunk for what its forward leaves; returns the evaluations it took."""
        rule, memory = self.request.recipe.memory, self._memory
        assert rule is not None
        assert memory is not None
        assert self._clean is not None
        (first, latents_1CTHW), self._clean = self._clean, None
        assert first == window.first_latent_frame
        evaluate = self.run(latents_1CTHW, rule.commit_timestep, first, commits=True)
        for branch in memory.branches:
            evaluate(branch)
        self.note(first, rule.commit_timestep, latents_1CTHW)
        return len(memory.branches)

    def give(self) -> tuple[dict[int, float], dict[str, Tensor]]:
        """Timesteps and tensors of all that is remembered, for another lane; it is not remembered here any more."""
        history = self._past if self._memory is None else self._memory.history
        tensors = {f"{_HISTORY}{past.first}": past.latents_1CTHW.to(self.model.device) for past in history}
        if self._clean is not None:
            tensors[f"{_CLEAN}{self._clean[0]}"] = self._clean[1]
        self.release()
        self._past, self._clean = [], None
        return {past.first: past.timestep for past in history}, tensors

    def take(self, timesteps: Mapping[int, float], tensors: Mapping[str, Tensor]) -> None:
        """Take over what another lane gave; `begin` makes a memory of it."""
        self._past = [
            Committed(first=first, timestep=timestep, latents_1CTHW=tensors[f"{_HISTORY}{first}"].cpu())
            for first, timestep in timesteps.items()
        ]
        clean = [(int(n.removeprefix(_CLEAN)), value) for n, value in tensors.items() if n.startswith(_CLEAN)]
        self._clean = clean[0] if clean else None

    def save(self) -> tuple[Any, dict[str, bytes]]:
        """Write down what a chunk waits with, and what was remembered since the last time."""
        history = [] if self._memory is None else self._memory.history
        new, self._saved = history[self._saved :], len(history)
        clean = None if self._clean is None else (self._clean[0], self._clean[1].cpu())
        return clean, {history_part(past.first): pack(asdict(past)) for past in new}

    def restore(self, clean: Any, parts: Mapping[str, bytes]) -> None:
        """Go on from what `save` has written down."""
        if clean is not None:
            self._clean = clean[0], clean[1].to(self.model.device)
        self._past = [Committed(**unpack(data)) for data in find_history(parts).values()]
        self._saved = len(self._past)
        self._remember_again()

    def _remember_again(self) -> None:
        """Come by the memory of another lane, or of ranks that are gone, by the forwards that made it."""
        if self._memory is None or not self._past:
            return

        def evaluate(past: Committed, branch: Branch) -> None:
            latents_1CTHW = past.latents_1CTHW.to(self.model.device)
            self.run(latents_1CTHW, past.timestep, past.first, commits=True)(branch)
            self.rooms.on_progress()

        self._memory.replay(self._past, evaluate)
        self._past = []
