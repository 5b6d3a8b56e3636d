"""The forwards of one request: over what its chunks remember, and for what they leave in memory.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from reelray.proto.recipe import PromptSwitch
from reelray.proto.request import RenderRequest
from reelray.proto.step_plan import WindowStep, find_history, find_memory, history_part
from reelray.workers.engine.memory_rooms import MemoryRooms
from reelray.workers.engine.packing import on_cpu, pack, unpack
from reelray.workers.engine.station import Station
from reelray.workers.engine.stream_memory import Committed, StreamMemory
from reelray.workers.engine.texts import Texts
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
        texts: Contexts of its prompts.
    """

    request: RenderRequest
    model: VideoModel
    rooms: MemoryRooms
    texts: Texts
    _memory: StreamMemory | None = field(default=None, init=False)
    _past: list[Committed] = field(default_factory=list, init=False)  # what a memory is yet to be made from
    _written: Sequence[Any] = field(default=(), init=False)  # that memory itself, by first head, if it was written
    _saved: int = field(default=0, init=False)  # how much of the history was written down
    _clean: dict[int, Tensor] = field(default_factory=dict, init=False)  # clean chunks that may yet be remembered
    _prompt: int = field(default=0, init=False)  # the prompt in force
    _remembered: set[Branch] = field(default_factory=set, init=False)  # branches of the forward in work
    _flushes: int | None = field(default=None, init=False)  # what its coming has kept, until that is noted

    @property
    def memory(self) -> StreamMemory | None:
        """What is remembered here."""
        return self._memory

    @property
    def prompt(self) -> int:
        """Number of the prompt in force."""
        return self._prompt

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

    @property
    def remembers(self) -> bool:
        """Whether there is a memory here."""
        return self._memory is not None

    def park(self, beside: Sequence[Tensor] = ()) -> None:
        """Let what is remembered rest in host memory until `wake`; see `StreamMemory.park`."""
        if self._memory is not None:
            self._memory.park(beside)

    def prefetch(self) -> None:
        """Begin to bring it back; see `MemoryRooms.prefetch`."""
        if self._memory is not None:
            self.rooms.prefetch(self._memory)

    def wake(self) -> list[Tensor]:
        """Have it back, before anything else is asked for; see `StreamMemory.wake`."""
        if self._memory is None:
            return []
        self.rooms.prefetch(self._memory)
        return self._memory.wake()

    def turn_to(self, prompt: int) -> None:
        """Go by another prompt from here on, if it is another."""
        rule = self.request.recipe.memory
        if prompt != self._prompt and rule is not None and rule.switch is PromptSwitch.FLUSH:
            assert self._memory is not None
            self._memory.flush(rule.switch_frames)
            self._flushes = rule.switch_frames
        if prompt != self._prompt:
            self.texts.forget_before(prompt)
        self._prompt = prompt

    def run(
        self, latents_1CTHW: Tensor, timesteps: Sequence[float], first: int, *, commits: bool, level: int = 0
    ) -> Evaluate:
        """What evaluates a branch on a window by the prompt in force, and remembers the window if it commits.

        Args:
            latents_1CTHW: Of the window.
            timesteps: Of each of its latent frames.
            first: Its first latent frame.
            commits: Whether the forward is remembered.
            level: Which memory it has to do with, where each noise level has one.
        """

        def evaluate(branch: Branch) -> Tensor:
            model, memory, length = self.model, self._memory, latents_1CTHW.shape[2]
            begin = 0 if self.request.recipe.chunking.round_latent_frames is not None else first
            positions: Sequence[int] = range(begin, begin + length)
            view = None
            if memory is not None:
                memory.turn_to(level)
                positions = memory.positions(branch, first, length)
                view = memory.view(branch, first, length, records=commits)
            prediction_1CTHW = model.denoise(
                latents_1CTHW,
                torch.tensor([timesteps], dtype=torch.float32, device=model.device),
                [self.texts[self._prompt] if branch is Branch.CONDITIONAL else self.texts.negative],
                positions_BT=torch.tensor([positions], device=model.device),
                image=self.texts.image,
                view=view,
            )
            if memory is not None and commits:
                memory.commit(branch, first, length)
                self._remembered.add(branch)
            return prediction_1CTHW

        return evaluate

    def remember_others(self, evaluate: Evaluate) -> int:
        """Evaluate the branches that a committing step did not need: each must remember every chunk.

        Returns:
            Evaluations it took.
        """
        assert self._memory is not None
        others = [branch for branch in self._memory.branches if branch not in self._remembered]
        for branch in others:
            evaluate(branch)
        self._remembered.clear()
        return len(others)

    def note(
        self, first: int, timestep: float, latents_1CTHW: Tensor, *, rewinds: bool = False, level: int = 0
    ) -> None:
        """Keep the input of a forward that was remembered, so that it can be repeated."""
        assert self._memory is not None
        flushes, self._flushes = self._flushes, None
        self._memory.note(
            Committed(
                first=first,
                timestep=timestep,
                latents_1CTHW=latents_1CTHW.cpu(),
                prompt=self._prompt,
                level=level,
                rewinds=rewinds,
                flushes=flushes,
            )
        )

    def keep_clean(self, first: int, latents_1CTHW: Tensor) -> None:
        """Keep a clean chunk as long as it may be remembered, or remembered anew."""
        rule = self.request.recipe.memory
        if rule is None:
            return
        self._clean[first] = latents_1CTHW
        reach = rule.switch_frames if rule.switch is PromptSwitch.RECACHE else 0
        for begin in [begin for begin in self._clean if begin < first]:
            if begin + self._clean[begin].shape[2] <= first + latents_1CTHW.shape[2] - reach:
                del self._clean[begin]

    def remember(self, window: WindowStep) -> int:
        """Evaluate clean frames for what their forward leaves; returns the evaluations it took."""
        rule, memory, first = self.request.recipe.memory, self._memory, window.first_latent_frame
        assert rule is not None
        assert memory is not None
        latents_1CTHW = self._find_clean(first, window.latent_frames)
        if window.recaches:
            memory.rewind(first)
        timesteps = (rule.commit_timestep,) * window.latent_frames
        evaluate = self.run(latents_1CTHW, timesteps, first, commits=True)
        count = self.remember_others(evaluate)
        self.note(first, rule.commit_timestep, latents_1CTHW, rewinds=window.recaches)
        return count

    def give(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Facts and tensors of all that is remembered, for another lane; it is not remembered here any more."""
        history = self._past if self._memory is None else self._memory.history
        device = self.model.device
        tensors = {f"{_HISTORY}{number}": past.latents_1CTHW.to(device) for number, past in enumerate(history)}
        tensors |= {f"{_CLEAN}{first}": latents for first, latents in self._clean.items()}
        known = [{**asdict(replace(past, latents_1CTHW=torch.empty(0))), "latents_1CTHW": None} for past in history]
        self.release()
        self._past, self._clean = [], {}
        return {"history": known, "prompt": self._prompt, "flushes": self._flushes}, tensors

    def take(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take over what another lane gave; `begin` makes a memory of it."""
        self._past = [
            Committed(**{**past, "latents_1CTHW": tensors[f"{_HISTORY}{number}"].cpu()})
            for number, past in enumerate(facts["history"])
        ]
        self._prompt, self._flushes = facts["prompt"], facts["flushes"]
        self._clean = {int(n.removeprefix(_CLEAN)): value for n, value in tensors.items() if n.startswith(_CLEAN)}

    def save(self) -> tuple[Any, dict[str, bytes]]:
        """Write down what is clean and yet to be remembered, and what was remembered since the last time."""
        history = [] if self._memory is None else self._memory.history
        begin, self._saved = self._saved, len(history)
        parts = {history_part(number): pack(asdict(history[number])) for number in range(begin, len(history))}
        return self.state(), parts

    def state(self) -> dict[str, Any]:
        """What is clean and yet to be remembered, and the prompt in force; see `restore`."""
        return {"clean": on_cpu(self._clean), "prompt": self._prompt, "flushes": self._flushes}

    def restore(self, state: Mapping[str, Any], parts: Mapping[str, bytes]) -> None:
        """Go on from what `save` has written down."""
        self._clean = {first: latents.to(self.model.device) for first, latents in state["clean"].items()}
        self._prompt, self._flushes = state["prompt"], state["flushes"]
        self._past = [Committed(**unpack(data)) for data in find_history(parts).values()]
        self._saved = len(self._past)
        self._written = [(first, unpack(data)) for first, data in find_memory(parts)]
        self._remember_again()

    def _find_clean(self, first: int, length: int) -> Tensor:
        """Clean frames, of whichever chunks."""
        parts, end = [], first + length
        for begin, latents_1CTHW in sorted(self._clean.items()):
            here = slice(max(0, first - begin), max(0, end - begin))
            parts.append(latents_1CTHW[:, :, here])
        found_1CTHW = torch.cat(parts, 2)
        assert found_1CTHW.shape[2] == length, "clean frames are kept as long as they may be remembered"
        return found_1CTHW

    def _remember_again(self) -> None:
        """Come by the memory of another lane, or of ranks that are gone, by the forwards that made it."""
        if self._memory is None or not self._past:
            return
        if self._written:
            self._memory.read(self._past, self._written)
            self._past, self._written = [], []
            return

        prompt = self._prompt

        def evaluate(past: Committed, branch: Branch) -> None:
            if past.prompt != self._prompt:
                self.texts.forget_before(past.prompt)
            self._prompt = past.prompt
            latents_1CTHW = past.latents_1CTHW.to(self.model.device)
            timesteps = (past.timestep,) * past.length
            self.run(latents_1CTHW, timesteps, past.first, commits=True, level=past.level)(branch)
            self.rooms.on_progress()

        self._memory.replay(self._past, evaluate)
        self._remembered.clear()
        self._past, self._prompt = [], prompt
        if self._flushes is not None:
            self._memory.flush(self._flushes)
