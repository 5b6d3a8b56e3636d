"""The chunks of one request that are on their way: one after the other, or several that share a window.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reelray.proto.request import RenderRequest
from reelray.proto.step_plan import Part, Slot, WindowStep
from reelray.workers.engine.chunk_in_work import ChunkInWork
from reelray.workers.samplers.noise import INITIAL_STEP
from reelray.workers.samplers.noise_ahead import Draw, NoiseSource

_LATENTS, _SOLVER = "latents.", "solver."


class Flight:
    """Moves the chunks of windows, each by its own solver; where there are rounds it keeps those that are clean too.

    Args:
        request: Whose.
        plane_CHW: Channels, latent height and width.
        device: Where the latents live.
        noise: Draws for that device.
    """

    def __init__(
        self, request: RenderRequest, plane_CHW: tuple[int, int, int], device: torch.device, noise: NoiseSource
    ) -> None:
        self._request, self._plane_CHW, self._device, self._noise = request, plane_CHW, device, noise
        self._chunks: dict[int, ChunkInWork] = {}

    @property
    def numbers(self) -> tuple[int, ...]:
        """Which chunks are in work; none between two."""
        return tuple(self._chunks)

    def enter(self, window: WindowStep) -> None:
        """Begin the chunks that come in with a window, and drop those that have left.

        Raises:
            UnsupportedError: The recipe cannot be sampled.
        """
        chunks = {slot.chunk: self._chunks.get(slot.chunk) for slot in window.chunks}
        for slot in window.chunks:
            if chunks[slot.chunk] is None or _begins(slot):
                assert _begins(slot) or slot.part is Part.WAITS, f"chunk {slot.chunk} is in flight since its first step"
                chunks[slot.chunk] = self._begin(slot)
        self._chunks = {number: chunk for number, chunk in chunks.items() if chunk is not None}

    def latents(self, window: WindowStep) -> Tensor:
        """What the network is given [1, C, T, H, W]."""
        parts = [self._shown(slot) for slot in window.chunks]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def timesteps(self, window: WindowStep) -> tuple[float, ...]:
        """What the network is told of each latent frame of a window, in [0, 1000]."""
        return tuple(time for slot in window.chunks for time in [self._timestep(slot)] * slot.latent_frames)

    def weight(self, window: WindowStep) -> float:
        """Guidance weight, the same for all chunks of a window."""
        return self._chunks[window.chunk].weight(window.step)

    def advance(self, window: WindowStep, prediction_1CTHW: Tensor) -> dict[int, Tensor]:
        """Move the chunks of a window by one step.

        Returns:
            Latents of those that are clean now, by their first latent frame.
        """
        clean, begin = {}, 0
        for slot in window.chunks:
            own = slice(begin, begin + slot.latent_frames)
            if slot.part is Part.MOVES:
                chunk = self._chunks[slot.chunk]
                chunk.advance(slot.step, prediction_1CTHW[:, :, own])
                if slot.last:
                    clean[window.first_latent_frame + begin] = chunk.latents_1CTHW
                    self._leave(slot.chunk)
            begin = own.stop
        return clean

    def show(self) -> dict[str, Tensor]:
        """Latents and solver history of the chunks in work, where they lie."""
        tensors: dict[str, Tensor] = {}
        for number, chunk in self._chunks.items():
            state = chunk.state()
            tensors[f"{_LATENTS}{number}"] = state["latents"]
            tensors |= {f"{_SOLVER}{number}.{name}": value for name, value in state["solver"].items()}
        return tensors

    def take(self, numbers: tuple[int, ...], tensors: Mapping[str, Tensor]) -> None:
        """Go on with what another rank, or an earlier gang, has shown.

        Args:
            numbers: The chunks in work there.
            tensors: See `show`; others are ignored.
        """
        self._chunks = {}
        for number in numbers:
            prefix = f"{_SOLVER}{number}."
            solver = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            state: dict[str, Any] = {"chunk": number, "latents": tensors[f"{_LATENTS}{number}"], "solver": solver}
            self._chunks[number] = ChunkInWork.from_state(self._request, state, self._device, self._noise)

    def clear(self) -> None:
        """Forget all of them."""
        self._chunks = {}

    def _begin(self, slot: Slot) -> ChunkInWork:
        channels, height, width = self._plane_CHW
        shape_CTHW = (channels, slot.latent_frames, height, width)
        chunk = ChunkInWork(self._request, slot.chunk, shape_CTHW, self._noise)
        if self._request.recipe.chunking.latent_frames is not None:  # another one follows, most of the time
            draw = Draw(seed=self._request.seed, chunk=slot.chunk + 1, step=INITIAL_STEP, shape_CTHW=shape_CTHW)
            self._noise.expect(draw)
        return chunk

    def _leave(self, number: int) -> None:
        """Drop a clean chunk, unless later windows show it."""
        if self._request.recipe.chunking.round_latent_frames is None:
            del self._chunks[number]

    def _shown(self, slot: Slot) -> Tensor:
        chunk = self._chunks[slot.chunk]
        if slot.part is not Part.GIVEN:
            return chunk.latents_1CTHW
        return chunk.noised(self._request.recipe.chunking.overlap_timestep, slot.step)

    def _timestep(self, slot: Slot) -> float:
        match slot.part:
            case Part.GIVEN:
                return self._request.recipe.chunking.overlap_timestep
            case Part.RESTS:
                return 0.0
            case _:
                return self._chunks[slot.chunk].timestep(slot.step)


def _begins(slot: Slot) -> bool:
    return slot.part is Part.MOVES and slot.step == 0
