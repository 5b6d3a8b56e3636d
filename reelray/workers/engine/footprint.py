"""What a stream needs beside its pages: found by running a window and a decode of its shape before it begins.

Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from reelray.proto.decoder import Decoder
from reelray.proto.memory_rule import FirstFrame, PromptSwitch
from reelray.proto.model_facts import ModelFacts
from reelray.proto.request import RenderRequest
from reelray.workers.engine.device_memory import DeviceMeter
from reelray.workers.models.api import VideoModel
from reelray.workers.models.free_memory import free_bytes
from reelray.workers.models.joint_rows import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeClass:
    """Streams whose forwards and decodes are alike.

    Args:
        width: Pixels.
        height: Pixels.
        window: Most latent frames of a window.
        piece: Most latent frames that are decoded at once.
        rows: Most windows in one forward.
        decoder: What decodes them.
        recodes: Whether whoever remembers decodes too, by the full decoder; see `RecodedFrames`.
    """

    width: int
    height: int
    window: int
    piece: int
    rows: int = 1
    decoder: Decoder = Decoder.WAN_EXACT_STREAM
    recodes: bool = False

    @classmethod
    def of(cls, request: RenderRequest, facts: ModelFacts) -> "ShapeClass":
        """The class of a request whose recipe remembers.

        Args:
            request: The request.
            facts: Of its model.
        """
        rule, chunking = request.recipe.memory, request.recipe.chunking
        assert rule is not None
        assert chunking.latent_frames is not None
        chunk = max(chunking.latent_frames, chunking.first_latent_frames or 0)
        anew = rule.switch_frames if rule.switch is PromptSwitch.RECACHE else 0
        at_once = facts.decode_pixels // (request.width * request.height * facts.temporal_stride)
        piece = max(1, min(chunk, at_once))
        window = max(chunk, chunking.latent_frames * request.recipe.in_flight, anew, rule.causal_frames)
        return cls(
            width=request.width,
            height=request.height,
            window=window,
            piece=piece,
            decoder=request.recipe.decoder,
            recodes=rule.first_frame is FirstFrame.CODED_ANEW,
        )

    @property
    def area(self) -> int:
        """Pixels of a picture; the state of a decoder grows with them."""
        return self.width * self.height

    def needs_no_more_than(self, other: "ShapeClass") -> bool:
        """Whether what was measured for another class is enough for this one."""
        return (
            (self.decoder.is_preview or not other.decoder.is_preview)
            and (other.recodes or not self.recodes)
            and self.area <= other.area
            and self.area * self.window * self.rows <= other.area * other.window * other.rows
            and self.area * self.piece <= other.area * other.piece
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """What streams of a class need beside pages and workspaces.

    Args:
        peak_bytes: While a window or a decode runs.
        stream_bytes: Of every stream as long as it goes on: the state of its decoder.
    """

    peak_bytes: int
    stream_bytes: int


class Gauge(Protocol):
    """Knows what a device has, and what a class of streams needs of it."""

    def free(self) -> int:
        """Bytes that can be had now."""
        ...

    def measure(self, shape: ShapeClass, *, decodes: bool, beside: bool = False) -> Footprint:
        """Run what streams of a class run; all ranks of a lane call this together.

        Args:
            shape: The class.
            decodes: Whether this rank decodes.
            beside: Whether it does while a window moves.
        """
        ...


class Meter(Protocol):
    """Reads the memory of a device."""

    def restart(self) -> None:
        """Forget the peak."""
        ...

    def used(self) -> int:
        """Bytes in use."""
        ...

    def peak(self) -> int:
        """Most bytes in use since `restart`."""
        ...

    def settle(self) -> None:
        """Give back what nobody uses."""
        ...


class DryRun:
    """Implements `Gauge` by forwards over zeros.

    Args:
        model: The loaded checkpoint.
        meter: Of its device.
        on_progress: Called after every forward and decode.
    """

    def __init__(self, model: VideoModel, meter: Meter, on_progress: Callable[[], None] = lambda: None) -> None:
        self._model, self._meter, self._on_progress = model, meter, on_progress

    def free(self) -> int:
        """See `Gauge`."""
        self._meter.settle()
        return free_bytes(self._model.device)

    @torch.inference_mode()
    def measure(self, shape: ShapeClass, *, decodes: bool, beside: bool = False) -> Footprint:
        """See `Gauge`."""
        self._meter.settle()
        peak, kept = self._run_windows(shape), 0
        window_peak = peak if beside else 0
        runs = [self._run_decodes] * decodes + [self._run_recoder] * shape.recodes
        for run in runs:
            before = self._meter.used()
            state, decode_peak = run(shape)
            kept, peak = kept + max(0, self._meter.used() - before), max(peak, window_peak + decode_peak)
            del state
        return Footprint(peak_bytes=peak, stream_bytes=kept)

    def _run_windows(self, shape: ShapeClass) -> int:
        """The second one of a kind may be recorded, and what recordings keep is no peak but gone for good."""
        model = self._model
        text = model.encode_text([""])
        image = None
        if model.facts.task == "i2v":
            picture = torch.zeros((shape.height, shape.width, 3), dtype=torch.uint8)
            image = [model.encode_image(picture, frames=model.facts.frames(shape.window))]
        latents_1CTHW = self._zeros(shape, shape.window)
        times_1T = torch.full((1, shape.window), 500.0, device=model.device)
        positions_1T = torch.arange(shape.window, device=model.device)[None]
        row = Row(
            latents_1CTHW=latents_1CTHW,
            timesteps=(500.0,) * shape.window,
            text=text[0],
            positions=tuple(range(shape.window)),
            image=None if image is None else image[0],
        )

        def run() -> None:
            model.denoise(latents_1CTHW, times_1T, text, positions_BT=positions_1T, image=image)

        def run_together() -> None:
            model.denoise_rows([row] * shape.rows)

        runs = [run, run, *([run_together] * 2 if shape.rows > 1 else [])]
        return max(map(self._watch, runs))

    def _run_decodes(self, shape: ShapeClass) -> tuple[object, int]:
        """The first piece and one that goes on from it."""
        model, latents_1CTHW = self._model, self._zeros(shape, shape.piece)
        state = model.new_decode_state(shape.decoder)
        peak = max(self._watch(lambda: model.decode(latents_1CTHW, state)) for _ in range(2))
        model.settle_decode(latents_1CTHW, state)  # by then pages have what is free now
        return state, peak

    def _run_recoder(self, shape: ShapeClass) -> tuple[object, int]:
        """Whole chunks by this rank alone, also where ranks share the pictures that clients see."""
        recoder, latents_1CTHW = self._model.new_recoder(shape.window), self._zeros(shape, shape.window)
        peak = max(self._watch(lambda: recoder.decode(latents_1CTHW)) for _ in range(2))
        self._model.settle_decode(latents_1CTHW, recoder.state)
        return recoder, max(peak, self._watch(lambda: recoder.encode(2 * shape.window - 1)))

    def _watch(self, run: Callable[[], object]) -> int:
        """Bytes that a run has needed and given back."""
        self._meter.restart()
        run()
        self._on_progress()
        return max(0, self._meter.peak() - self._meter.used())

    def _zeros(self, shape: ShapeClass, frames: int) -> torch.Tensor:
        rows, columns = self._model.facts.latent_size(shape.width, shape.height)
        return torch.zeros(1, self._model.facts.latent_channels, frames, rows, columns, device=self._model.device)


def find_gauge(model: VideoModel, on_progress: Callable[[], None]) -> Gauge | None:
    """What measures streams on a GPU; nothing does on a CPU, whose memory others have too."""
    device = model.device
    return DryRun(model, DeviceMeter(device), on_progress) if device.type == "cuda" else None
