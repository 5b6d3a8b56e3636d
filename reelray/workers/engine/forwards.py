"""The forwards of one request: over what its chunks remember, and for what they leave in memory.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reelray.proto.commit_parts import find_history, find_memory
from reelray.proto.memory_rule import PromptSwitch
from reelray.proto.request import RenderRequest
from reelray.proto.step_plan import WindowStep
from reelray.workers.engine.anew import cut_anew, evaluate_anew, find_anew
from reelray.workers.engine.clean_chunks import CleanChunks
from reelray.workers.engine.landing import Landing
from reelray.workers.engine.memory_rooms import MemoryRooms
from reelray.workers.engine.mixed_text import MixedText
from reelray.workers.engine.packing import on_cpu, pack, unpack
from reelray.workers.engine.sparse_request import SparseRequest, open_sparse
from reelray.workers.engine.station import Station, keep
from reelray.workers.engine.stream_memory import Committed, StreamMemory
from reelray.workers.engine.texts import Texts
from reelray.workers.engine.window_input import WindowInput
from reelray.workers.models.api import VideoModel
from reelray.workers.models.joint_rows import Row
from reelray.workers.samplers.guidance import Branch

_HISTORY = "history."
Evaluate = Callable[[Branch], Tensor]


@dataclass(kw_only=True, eq=False)
class Forwards:
    """Evaluates windows of one request.

    Args:
        request: Whose.
        model: By what.
        rooms: Where streams are remembered.
        texts: Contexts of its prompts.
        seats: How many streams of its kind may share a forward.
        clean: Clean chunks that may yet be remembered.
        sparse: What its windows leave out of self-attention; None where that is nothing.
    """

    request: RenderRequest
    model: VideoModel
    rooms: MemoryRooms
    texts: Texts
    seats: int = 1
    clean: CleanChunks = field(init=False)
    _memory: StreamMemory | None = field(default=None, init=False)
    _past: list[Committed] = field(default_factory=list, init=False)  # what a memory is yet to be made from
    _written: Sequence[Any] = field(default=(), init=False)  # that memory itself, by first head, if it was written
    _saved: int = field(default=0, init=False)  # forwards that were written down
    _prompt: int = field(default=0, init=False)  # the prompt in force
    _remembered: set[Branch] = field(default_factory=set, init=False)  # branches of the forward in work
    _flushes: int | None = field(default=None, init=False)  # what its coming has kept, until that is noted
    _mix: tuple[float, ...] = field(default=(), init=False)  # weights of prompts where they are mixed
    _mixed: MixedText = field(default_factory=MixedText, init=False)
    _cuts: bool = field(default=False, init=False)  # whether another scene begins
    _landing: Landing = field(default_factory=Landing, init=False)
    _add_up: Callable[[Tensor], Tensor] = field(default=keep, init=False)  # see `Station`
    sparse: SparseRequest | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.clean = CleanChunks(self.request.recipe, self.model)
        self.sparse = open_sparse(self.request, self.model)

    @property
    def memory(self) -> StreamMemory | None:
        """What is remembered here."""
        return self._memory

    @property
    def history(self) -> Sequence[Committed]:
        """Forwards that made what is remembered, or that are to make it again."""
        return self._past if self._memory is None else self._memory.history

    @property
    def prompt(self) -> int:
        """Number of the prompt in force."""
        return self._prompt

    def begin(self, station: Station, *, repeats: bool = True) -> None:
        """Remember here from now on, what was remembered elsewhere included; others bring that where nothing `repeats`.

        Whatever it raises, nothing is remembered here afterwards, and it may be asked again.

        Raises:
            ResourceError: There is no room for it.
        """
        if self._memory is not None:
            return
        self._add_up = station.add_up
        self._memory = memory = self.rooms.open(self.request, station, seats=self.seats)
        if not repeats and memory is not None:
            memory.history, self._past = self._past, []
        try:
            self._remember_again()
        except Exception:
            assert memory is not None
            memory.close()
            self._memory = None
            raise

    def fork(self, request: RenderRequest, texts: Texts, **how: Any) -> "Forwards":
        """Those of a request that goes on from here; see `MemoryRooms.fork`."""
        if self._memory is not None:
            self.rooms.check_fork(self._memory, rests=bool(how.get("rests")))
        other = Forwards(request=request, model=self.model, rooms=self.rooms, texts=texts, seats=self.seats)
        other._past, other._written, other._saved = [*self._past], self._written, self._saved
        other._add_up = self._add_up
        other._prompt, other._mix, other._cuts, other._flushes = self._prompt, self._mix, self._cuts, self._flushes
        other.clean = self.clean.fork(rests=bool(how.get("rests")))
        other._memory = None if self._memory is None else self.rooms.fork(self._memory, **how)
        return other

    def release(self) -> None:
        """Give back what others share."""
        self.rooms.forget(self.request.request_id)
        if self._memory is not None:
            self._memory.close()
        self._memory, self.sparse = None, open_sparse(self.request, self.model)

    def turn_to(self, window: WindowStep) -> None:
        """Go by the text of this window from here on, if it is another."""
        rule, prompt = self.request.recipe.memory, window.prompt
        if prompt != self._prompt and rule is not None and rule.switch is PromptSwitch.FLUSH:
            assert self._memory is not None
            self._memory.flush(rule.switch_frames)
            self._flushes = rule.switch_frames
        if prompt != self._prompt:
            self.texts.forget_before(prompt)
        self._prompt, self._mix, self._cuts = prompt, window.mix, window.cuts
        self._text()  # at once: ranks that share weights make it together, whichever branch they evaluate

    def run(self, window: WindowInput, predicted: Mapping[Branch, Tensor] | None = None) -> Evaluate:
        """What evaluates a branch on a window by the prompt in force, and remembers the window if it is recorded.

        Args:
            window: The window.
            predicted: What a forward that was shared made of its `row` of each branch; None evaluates them here.
        """

        def evaluate(branch: Branch) -> Tensor:
            prediction_1CTHW = self._predict(branch, window) if predicted is None else predicted[branch]
            if self._memory is not None and window.records:
                self._memory.commit(branch, window.first, window.length)
                self._remembered.add(branch)
            return prediction_1CTHW

        return evaluate

    def _predict(self, branch: Branch, window: WindowInput) -> Tensor:
        return self.row(branch, window).evaluate_by(self.model)

    def row(self, branch: Branch, window: WindowInput) -> Row:
        """What is evaluated of a branch on a window, with what it attends laid out; see `run`."""
        memory, first, length = self._memory, window.first, window.length
        text = self._text() if branch is Branch.CONDITIONAL else self.texts.negative
        begin = 0 if self.request.recipe.chunking.round_latent_frames is not None else first
        positions: Sequence[int] = range(begin, begin + length)
        view = None if self.sparse is None else self.sparse.view(window, branch)
        if memory is not None:
            memory.turn_to(window.level)
            memory.settle(branch, partial(self.model.mean_text_keys, text), self._add_up)
            positions = memory.positions(branch, first, length, cuts=self._cuts)
            view = memory.view(branch, first, length, records=window.records)
        return Row(
            latents_1CTHW=window.latents_1CTHW,
            timesteps=tuple(window.timesteps),
            text=text,
            positions=tuple(positions),
            image=self.texts.image and self.texts.image[0],
            view=view,
        )

    def _text(self) -> Any:
        return self._mixed.find(self.request, self.model, self._mix) if self._mix else self.texts[self._prompt]

    def remember_others(self, evaluate: Evaluate) -> int:
        """Evaluate the branches that a committing step did not need, which must remember too; returns how many."""
        assert self._memory is not None
        others = [branch for branch in self._memory.branches if branch not in self._remembered]
        for branch in others:
            evaluate(branch)
        self._remembered.clear()
        return len(others)

    def note(self, first: int, timestep: float, latents_1CTHW: Tensor, **more: Any) -> None:
        """Keep the input of a forward that was remembered, so that it can be repeated; `more` as in `Committed`."""
        assert self._memory is not None
        text: dict[str, Any] = {"prompt": self._prompt, "mix": self._mix, "cuts": self._cuts, "flushes": self._flushes}
        text["latents_1CTHW"] = self._landing.bring(latents_1CTHW, self._memory.history)
        self._flushes, number = None, _count(self._memory.history)
        self._memory.note(Committed(first=first, timestep=timestep, number=number, **text, **more))

    def remember_anew(self, window: WindowStep) -> int:
        """Evaluate clean frames before a chunk for what their forward leaves; returns the evaluations it took."""
        recipe, memory, first = self.request.recipe, self._memory, window.first_latent_frame
        rule = recipe.memory
        assert rule is not None
        assert memory is not None
        end = first + window.latent_frames
        frames = find_anew(recipe, end)
        latents_1CTHW, timestep = self.clean.find(frames or range(first, end), anew=bool(frames)), rule.commit_timestep
        if frames:
            memory.begin_anew()
            evaluate = evaluate_anew(self._predict, memory, recipe, latents_1CTHW, timestep, frames)
        else:
            memory.rewind(first)
            evaluate = self.run(_remembered_as(latents_1CTHW, timestep, first))
        count = self.remember_others(evaluate)
        self.note(first, timestep, latents_1CTHW, rewinds=not frames, frames=frames)
        return count * max(1, len(cut_anew(recipe, frames)))

    def give(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Facts and tensors of all that is remembered, for another lane; it is not remembered here any more."""
        known, tensors = _split(self.history, self.model.device)
        clean, shown = self.clean.show()
        self.release()
        self._past, self.clean = [], CleanChunks(self.request.recipe, self.model)
        return {"history": known, "prompt": self._prompt, "flushes": self._flushes, "clean": clean}, tensors | shown

    def take(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take over what another lane gave; `begin` makes a memory of it."""
        self._past = _join(facts["history"], tensors)
        self._prompt, self._flushes = facts["prompt"], facts["flushes"]
        self.clean.take(facts["clean"], tensors)

    def save(self) -> tuple[Any, dict[str, bytes]]:
        """Write down what is clean and yet to be remembered, and what was remembered since the last time."""
        history = [] if self._memory is None else self._memory.history
        parts = {past.part: pack(asdict(past)) for past in history if past.number >= self._saved}
        self._saved = _count(history)
        return self.state(), parts

    def state(self) -> dict[str, Any]:
        """What is clean and yet to be remembered, and the prompt in force; see `restore`."""
        return {"clean": on_cpu(self.clean.show()), "prompt": self._prompt, "flushes": self._flushes}

    def restore(self, state: Mapping[str, Any], parts: Mapping[str, bytes]) -> None:
        """Go on from what `save` has written down."""
        self.clean.take(*state["clean"])
        self._prompt, self._flushes = state["prompt"], state["flushes"]
        self._past = [Committed(**unpack(data) | {"number": n}) for n, data in find_history(parts).items()]
        self._saved = _count(self._past)
        if self._past:  # an empty memory needs no writing down, and a later one must not be taken for it
            self._written = [(first, unpack(data)) for first, data in find_memory(parts)]
        self._remember_again()

    def _remember_again(self) -> None:
        """Come by the memory of another lane, or of ranks that are gone, by the forwards that made it."""
        if self._memory is None or not self._past:
            return
        if self._written:
            self._memory.read(self._past, self._written)
            self._past, self._written = [], []
            return
        prompt = self._prompt
        try:
            self._memory.replay(self._past, self._repeat)
        finally:
            self._remembered.clear()
            self._prompt, self._mix, self._cuts = prompt, (), False
        self._past = []
        if self._flushes is not None:
            self._memory.flush(self._flushes)

    def _repeat(self, past: Committed, branch: Branch) -> None:
        """A forward that was remembered."""
        if past.prompt != self._prompt:
            self.texts.forget_before(past.prompt)
        self._prompt, self._mix, self._cuts = past.prompt, past.mix, past.cuts
        recipe, memory, latents_1CTHW = self.request.recipe, self._memory, past.latents_1CTHW.to(self.model.device)
        assert memory is not None
        if past.frames:
            evaluate_anew(self._predict, memory, recipe, latents_1CTHW, past.timestep, past.frames)(branch)
        else:
            self.run(_remembered_as(latents_1CTHW, past.timestep, past.first, past.level))(branch)
        self.rooms.on_progress()


def _remembered_as(latents_1CTHW: Tensor, timestep: float, first: int, level: int = 0) -> WindowInput:
    """A window whose frames are all told the same, and that is remembered."""
    timesteps = (timestep,) * latents_1CTHW.shape[2]
    return WindowInput(latents_1CTHW=latents_1CTHW, timesteps=timesteps, first=first, records=True, level=level)


def _count(history: Sequence[Committed]) -> int:
    """Forwards that were remembered up to the last one of these."""
    return history[-1].number + 1 if history else 0


def _split(history: Sequence[Committed], device: torch.device) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Facts and tensors of the forwards that were remembered."""
    tensors = {f"{_HISTORY}{number}": past.latents_1CTHW.to(device) for number, past in enumerate(history)}
    bare = (replace(past, latents_1CTHW=torch.empty(0)) for past in history)
    return [{**asdict(past), "latents_1CTHW": None} for past in bare], tensors


def _join(facts: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> list[Committed]:
    """What `_split` was given."""
    return [
        Committed(**{**past, "latents_1CTHW": tensors[f"{_HISTORY}{number}"].cpu()})
        for number, past in enumerate(facts)
    ]
