"""What a rank holds of one request between steps.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width, F pixel frames.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from reelray.proto.errors import ReelrayError
from reelray.proto.events import Frames
from reelray.proto.request import RenderRequest, RequestId
from reelray.proto.step_plan import Amend, DecodeStep, Delivery, WindowStep
from reelray.workers.engine.flight import Flight
from reelray.workers.engine.forwards import Forwards
from reelray.workers.engine.frame_box import view_frames
from reelray.workers.engine.memory_rooms import MemoryRooms
from reelray.workers.engine.open_window import OpenWindow
from reelray.workers.engine.resting import copy_decoder, put_to_rest, show_decoder, wake_up
from reelray.workers.engine.station import Station
from reelray.workers.engine.texts import Texts
from reelray.workers.models.api import VideoModel
from reelray.workers.models.sharding import DecodeParts
from reelray.workers.samplers.noise_ahead import NoiseSource


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldState:
    """What a rank holds of a request besides its text, ready to go to another rank.

    Args:
        facts: Indices of the chunks in work (``chunks``), and what is no tensor of the decoder's state (``decoder``;
            None where there is none) and of memory (``memory``).
        denoise: Latents and solver history of those chunks, a clean chunk that is yet to be remembered, and what memory
            was made from; the same on every rank of a lane.
        decode: Clean latents that are not decoded, by first latent frame; the same on every rank that decodes.
        slots: Tensors of the decoder's state, of this rank.
        splits: Whether ranks that share the picture hold their rows of the slots only.
    """

    facts: dict[str, Any]
    denoise: dict[str, Tensor]
    decode: dict[str, Tensor]
    slots: list[Tensor]
    splits: bool


class HeldRequest:
    """Contexts, latents and decoder state of one request; dropping it frees its memory.

    Args:
        request: The request; its text and image are encoded here.
        model: The loaded checkpoint.
        station: What this rank does with it.
        rooms: Where streams are remembered.
        here: Whether the request lies on the lane of that station; on other lanes it is only known.
        resumes: Whether it goes on from what was written down: of its prompts only those are encoded that it needs.
        seats: How many requests like it may share a forward.
        texts: Of the one that it goes on from; see `fork`.
        noise: Draws what it is made from; by default in this thread.

    Raises:
        ResourceError: There is no room to remember it.
    """

    def __init__(
        self,
        request: RenderRequest,
        model: VideoModel,
        station: Station,
        rooms: MemoryRooms,
        *,
        here: bool = True,
        resumes: bool = False,
        seats: int = 1,
        texts: Texts | None = None,
        noise: NoiseSource | None = None,
    ) -> None:
        self.request, self._model = request, model
        self._noise = noise or NoiseSource(model.device)
        self._texts = texts or Texts(model)
        self.forwards = Forwards(request=request, model=model, rooms=rooms, texts=self._texts, seats=seats)
        self._reads = station.role.denoises or station.role.helps
        if self._reads:
            self._texts.follow(request, since=None if resumes or texts is not None else 0)
        self.latent_rows, columns = model.facts.latent_size(request.width, request.height)
        self._plane_CHW = (model.facts.latent_channels, self.latent_rows, columns)
        self.flight = Flight(request, self._plane_CHW, model.device, self._noise)
        self.clean_1CTHW: dict[int, Tensor] = {}  # by first latent frame, until decoded
        self._unchecked: list[Tensor] = []  # whether chunks are finite that nobody has looked at
        self._decode_state: Any = None
        self.settle(station, here=here)
        self.begin_memory(station)

    def begin_memory(self, station: Station) -> None:
        """Remember the request here from now on, and what it remembered elsewhere.

        Raises:
            ResourceError: There is no room for it.
        """
        if self.here and station.role.denoises:
            self.forwards.begin(station)

    def fork(self, request: RenderRequest, station: Station, *, rests: bool = False) -> "HeldRequest":
        """Another one that goes on from here; what is remembered is shared until either forgets it.

        Args:
            request: The same by another name.
            station: What this rank does with both.
            rests: Whether the other one begins in host memory.

        Raises:
            ResourceError: There is no room for both.
        """
        texts = self._texts.fork()
        decoder, beside = copy_decoder(self.forwards, self._model, self._decode_state, rests=rests)
        parts = request, self._model, station, self.forwards.rooms
        other = HeldRequest(*parts, here=False, texts=texts, noise=self._noise)
        shown = {name: tensor.clone() for name, tensor in self.flight.show().items()}
        other.flight.take(self.flight.numbers, shown)
        other.clean_1CTHW = {**self.clean_1CTHW}
        other.settle(station, here=self.here)
        # Last of all: whatever fails before leaves no pages behind.
        other.forwards, other._decode_state = self.forwards.fork(request, texts, rests=rests, beside=beside), decoder
        return other

    def settle(self, station: Station, *, here: bool) -> None:
        """Go on at a station, after what belongs there was taken."""
        self.here = here
        self._role, self._branches = station.role, station.branches_for(self.request)
        self.branches = self._branches.begin() if self.flight.numbers else self._branches

    def amend(self, amend: Amend) -> None:
        """Go by another wording of the request; what has begun is as it was."""
        request = replace(self.request, prompt=amend.prompt, changes=amend.changes, frames=amend.frames)
        self.request = self.forwards.request = request
        if self._reads:
            self._texts.follow(request, since=self.forwards.prompt)

    def release(self) -> None:
        """Give back what others share."""
        self.forwards.release()

    def park(self) -> None:
        """See `put_to_rest`."""
        self._decode_state = put_to_rest(self.forwards, self._model, self._decode_state)

    def prefetch(self) -> None:
        """Begin to bring back what rests; see `MemoryRooms.prefetch`."""
        if self.forwards.memory is not None:
            self.forwards.rooms.prefetch(self.forwards.memory)

    def wake(self) -> None:
        """Be awake; see `wake_up`."""
        self._decode_state = wake_up(self.forwards, self._model, self._decode_state)

    def give(self) -> HeldState:
        """What this rank holds, which it then holds no more."""
        decoder = show_decoder(self.forwards, self._model, self._decode_state)
        parts = None if decoder is None else self._model.take_apart(decoder)
        facts, remembered = self.forwards.give()
        state = HeldState(
            facts={
                "chunks": self.flight.numbers,
                "decoder": parts and parts.facts,
                "memory": facts,
            },
            denoise=self.flight.show() | remembered,
            decode={str(first): latents for first, latents in self.clean_1CTHW.items()},
            slots=[] if parts is None else list(parts.slots),
            splits=parts is not None and parts.splits,
        )
        self.flight.clear()
        self.clean_1CTHW, self._decode_state = {}, None
        return state

    def take(self, state: HeldState) -> None:
        """Go on from what other ranks gave, cut for this one."""
        facts = state.facts
        self.take_flight(facts["chunks"], state.denoise)
        self.forwards.take(facts["memory"], state.denoise)
        self.clean_1CTHW = {int(first): latents for first, latents in state.decode.items()}
        if facts["decoder"] is not None:
            parts = DecodeParts(facts=facts["decoder"], slots=tuple(state.slots), splits=state.splits)
            self._decode_state = self._model.put_together(parts)

    def take_flight(self, numbers: tuple[int, ...], tensors: Mapping[str, Tensor]) -> None:
        """Go on with the chunks that another rank has shown."""
        self.flight.take(numbers, tensors)
        self.branches = self._branches.begin() if numbers else self._branches

    def move(self, window: WindowStep) -> int:
        """Move a window by one step; returns the transformer evaluations it took."""
        if not window.recaches:
            return self.open(window).close()
        self.wake()
        self.forwards.turn_to(window)
        return self.forwards.remember_anew(window)

    def open(self, window: WindowStep) -> OpenWindow:
        """Begin to move a window, whose forwards may go with those of other requests."""
        self.wake()
        return OpenWindow(self, window)

    def start(self, window: WindowStep) -> None:
        """Let the chunks of a window enter."""
        begins = not self.flight.numbers or (window.step == 0 and not window.slots)
        self.flight.enter(window)
        if begins:
            self.branches = self._branches.begin()

    def end(self, window: WindowStep, prediction_1CTHW: Tensor) -> int:
        """Move the chunks of a window; returns the transformer evaluations it took."""
        evaluations = 1 if self.flight.weight(window) == 1.0 else 2
        for first, latents_1CTHW in self.flight.advance(window, prediction_1CTHW).items():
            self._unchecked.append(torch.isfinite(latents_1CTHW).all())
            self.hand_on(first, latents_1CTHW)
        if not self.flight.numbers:
            self.branches = self._branches
        return evaluations

    def check_clean(self) -> None:
        """Refuse latents that would decode to a black or grey video without a word; waits for the device.

        Raises:
            ReelrayError: A value of a clean chunk is infinite or not a number.
        """
        unchecked, self._unchecked = self._unchecked, []
        if not all(map(bool, unchecked)):
            raise ReelrayError(
                f"the model ({self._model.digest}) produced values that are not finite; its weights may be damaged, or "
                "its number format too narrow: download it again, or choose a lower guidance"
            )

    def hand_on(self, first: int, latents_1CTHW: Tensor) -> None:
        """Keep a clean chunk for whoever decodes it, and as long as it may be remembered."""
        if self._role.decodes or self._role.handover is not None:
            self.clean_1CTHW[first] = latents_1CTHW
        self.forwards.clean.keep(first, latents_1CTHW)

    @property
    def decoder_inputs(self) -> list[Tensor]:
        """What the next piece is decoded from, and the decoder's state before it."""
        parts = None if self._decode_state is None else self._model.take_apart(self._decode_state)
        return [*self.clean_1CTHW.values(), *(() if parts is None else parts.slots)]

    def decode(self, step: DecodeStep, *, waits: bool = True) -> Frames:
        """Decode the next clean latent frames.

        Args:
            step: Which.
            waits: Whether the frames are there at once, and not when the device's stream is done.
        """
        self.wake()
        latents_1CTHW = _take_clean(self.clean_1CTHW, step)
        if step.first_latent_frame == 0:
            self._decode_state = self._model.new_decode_state(self.request.recipe.decoder)
        frames_FHWC = self._model.decode(latents_1CTHW, self._decode_state, waits=waits)
        first = step.first_latent_frame
        return _as_frames(self.request.request_id, self._model.facts.frames(first) if first else 0, frames_FHWC)

    def deliver(self, delivery: Delivery) -> None:
        """Give the clean latents of a chunk to the ranks that only decode, or take them there."""
        handover, first = self._role.handover, delivery.first_latent_frame
        if handover is None:
            return  # another rank gives them
        if self._role.denoises:
            handover.send(self.clean_1CTHW.pop(first))
        else:
            channels, *plane = self._plane_CHW
            self.clean_1CTHW[first] = handover.receive((1, channels, delivery.latent_frames, *plane))

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self._model.device

    def work(self) -> dict[str, Any]:
        """The chunks in work."""
        return {"chunks": self.flight.numbers, "tensors": self.flight.show()}

    def take_decoder(self, packed: Tensor | None) -> None:
        """Go on with the decoder's state that `pack_decoder` has packed."""
        if packed is not None:
            self._decode_state = self._model.unpack_decode_state(
                packed.numpy().tobytes(), decoder=self.request.recipe.decoder, latent_rows=self.latent_rows
            )

    def pack_decoder(self) -> Tensor | None:
        """The decoder's state as bytes in a tensor: as an object, torch would write half of them twice as long."""
        state = show_decoder(self.forwards, self._model, self._decode_state)
        if state is None:
            return None
        data = self._model.pack_decode_state(state, latent_rows=self.latent_rows)
        return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else None


def _take_clean(clean_1CTHW: dict[int, Tensor], step: DecodeStep) -> Tensor:
    """The latents of a piece; those of its chunk are dropped once it is through."""
    first = max(start for start in clean_1CTHW if start <= step.first_latent_frame)
    chunk_1CTHW = clean_1CTHW[first]
    begin = step.first_latent_frame - first
    end = begin + step.latent_frames
    if end == chunk_1CTHW.shape[2]:
        del clean_1CTHW[first]
    return chunk_1CTHW[:, :, begin:end]


def _as_frames(request_id: RequestId, first_frame: int, frames_FHWC: Tensor) -> Frames:
    count, height, width, _ = frames_FHWC.shape
    data = view_frames(frames_FHWC)
    return Frames(request_id=request_id, first_frame=first_frame, count=count, height=height, width=width, data=data)
