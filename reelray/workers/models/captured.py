"""Small forwards as CUDA graphs: the host hands the device a thousand kernels at once.

A chunk of three latent frames keeps an H200 busy for about as long as Python needs to launch its kernels, and a fourth
of it on four GPUs for much less. Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

import logging
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from reelray.proto.graphs import GRAPH_TOKENS
from reelray.workers.models.attention_op import AttentionOp
from reelray.workers.models.sharding import TokenShard
from reelray.workers.models.stages import Forward, Stages, WholeModel

_LOG = logging.getLogger(__name__)
GRAPHS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """What a function did to the device.

    Args:
        replay: Does it again, on the same tensors.
        reset: Frees what that needs. NCCL does not let go of a group while a recording of its collectives lives.
        result: Where it leaves its result.
    """

    replay: Callable[[], None]
    reset: Callable[[], None]
    result: Tensor


class Recorder(Protocol):
    """Records what functions do to the device."""

    def __call__(self, run: Callable[[], Tensor]) -> Recorded:
        """Record without running.

        Raises:
            torch.OutOfMemoryError: There is no memory for it.
        """
        ...

    def renew(self) -> None:
        """Begin anew: nothing that was recorded lives."""
        ...


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory: they run one after the other."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], Tensor]) -> Recorded:
        """See `Recorder`."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # NCCL's watchdog asks the device things from its own thread, which only "thread_local" allows meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = run()
        except RuntimeError as error:
            torch.cuda.set_stream(stream)  # a capture that cannot be ended leaves this thread on its own
            self.renew()
            if _ran_out(error):
                raise torch.OutOfMemoryError(str(error)) from error
            raise
        return Recorded(replay=graph.replay, reset=graph.reset, result=result)

    def renew(self) -> None:
        """See `Recorder`; a pool ends with its last graph."""
        self._pool = torch.cuda.graph_pool_handle()


def _ran_out(error: BaseException | None) -> bool:
    """Whether memory was short: the end of the capture may have failed for it."""
    return error is not None and (isinstance(error, torch.OutOfMemoryError) or _ran_out(error.__context__))


_Shapes: TypeAlias = tuple[tuple[torch.Size, torch.dtype], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """What two forwards share that one recording serves.

    Args:
        variables: Shapes and dtypes.
        constants: Shapes and dtypes.
        shard: Tokens of this rank; equal to itself alone.
        attention: Equal to itself alone.
    """

    variables: _Shapes
    constants: _Shapes
    shard: TokenShard
    attention: AttentionOp

    @classmethod
    def of(cls, forward: Forward) -> "_Kind":
        return cls(
            variables=_shapes(forward.variables),
            constants=_shapes(forward.constants),
            shard=forward.shard,
            attention=forward.attention,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Recording:
    """One recorded evaluation.

    Args:
        recorded: Runs it.
        variables: What it reads; written before each run.
        constants: What it reads too, shared with other recordings.
    """

    recorded: Recorded
    variables: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]


@dataclass(kw_only=True, slots=True)
class _Entry:
    """A kind that has come; one that could not be recorded is not tried again while it is kept."""

    tried: bool = False
    recording: _Recording | None = None


@dataclass(kw_only=True, slots=True)
class _Constants:
    """Room for the contexts of one prompt, and whose they are now."""

    tensors: tuple[Tensor, ...]
    source: tuple[weakref.ref[Tensor], ...] = ()

    def load(self, source: Sequence[Tensor]) -> None:
        """Copy a context unless it is the one that lies here."""
        known = [reference() for reference in self.source]
        if len(known) != len(source) or any(a is not b for a, b in zip(known, source, strict=True)):
            _copy(self.tensors, source)
            self.source = tuple(map(weakref.ref, source))


class CapturedModel:
    """Implements `Stages`: all layers here; a small forward is recorded when its kind comes for the second time.

    Kinds differ in shapes, tokens of this rank, and attention. Ranks that share a forward must record and replay the
    same collectives: each set of ranks has a shelf of its own, so that its ranks have seen the same on it, and they
    agree on whether a kind could be recorded.

    Args:
        record: Records.
        tokens: Most tokens of a rank that are recorded.
        graphs: Kinds kept on a shelf; the one used longest ago goes first.
    """

    def __init__(self, record: Recorder, *, tokens: int = GRAPH_TOKENS, graphs: int = GRAPHS) -> None:
        self._record = record
        self._tokens = tokens
        self._graphs = graphs
        self._whole = WholeModel()
        self._shelves: defaultdict[Hashable, OrderedDict[_Kind, _Entry]] = defaultdict(OrderedDict)
        self._constants: dict[_Shapes, _Constants] = {}

    def evaluate(self, forward: Forward) -> Tensor:
        """See `Stages`."""
        rows, tokens, _ = forward.stream.shape
        # All ranks of a window record it or none: their shares may differ by a few tokens.
        if (
            rows * forward.shard.widest(tokens) > self._tokens
            or not forward.attention.repeats
            or torch.is_grad_enabled()
        ):
            return self._whole.evaluate(forward)
        shelf, kind = self._shelves[forward.shard.peers], _Kind.of(forward)
        if kind not in shelf:
            # The first time kernels are compiled and libraries choose algorithms, which cannot be recorded.
            shelf[kind] = _Entry()
            if len(shelf) > self._graphs:
                self._drop(shelf.popitem(last=False)[1])
            return self._whole.evaluate(forward)
        shelf.move_to_end(kind)
        entry = shelf[kind]
        if not entry.tried:
            entry.tried, entry.recording = True, self._capture(forward)
        if entry.recording is None:
            return self._whole.evaluate(forward)
        self._load(forward)
        _copy(entry.recording.variables, forward.variables)
        entry.recording.recorded.replay()
        return entry.recording.recorded.result.clone()

    def forget(self) -> None:
        """See `Stages`."""
        for shelf in self._shelves.values():
            for entry in shelf.values():
                if entry.recording is not None:
                    entry.recording.recorded.reset()
        self._shelves.clear()
        self._constants.clear()
        self._record.renew()

    def _capture(self, forward: Forward) -> _Recording | None:
        """Record; None where a device of the ranks that share this forward has no memory for it."""
        recording: _Recording | None = None
        try:
            variables = tuple(torch.empty_like(tensor) for tensor in forward.variables)
            _copy(variables, forward.variables)
            constants = self._load(forward)
            recorded = self._record(lambda: self._whole.evaluate(forward.reading(variables, constants)))
            recording = _Recording(recorded=recorded, variables=variables, constants=constants)
        except torch.OutOfMemoryError:
            tokens = forward.stream.shape[1]
            _LOG.warning("no memory to capture a forward of %d tokens; it runs kernel by kernel", tokens)
        if forward.shard.agree(own=recording is not None):
            return recording
        self._drop(_Entry(recording=recording))
        return None

    def _drop(self, entry: _Entry) -> None:
        """Free a recording, and the rooms that no other one reads."""
        if entry.recording is not None:
            entry.recording.recorded.reset()
        kept = [(kind, e) for shelf in self._shelves.values() for kind, e in shelf.items() if e.recording is not None]
        used = {kind.constants for kind, _ in kept}
        self._constants = {shapes: room for shapes, room in self._constants.items() if shapes in used}
        if not kept:
            self._record.renew()

    def _load(self, forward: Forward) -> tuple[Tensor, ...]:
        """Put a prompt's context where recordings of its shape read it; one room serves them all."""
        source = forward.constants
        shapes = _shapes(source)
        if shapes not in self._constants:
            self._constants[shapes] = _Constants(tensors=tuple(torch.empty_like(tensor) for tensor in source))
        self._constants[shapes].load(source)
        return self._constants[shapes].tensors


def choose_stages(device: torch.device, *, resident: bool = True) -> Stages:
    """Captured on a GPU whose memory holds all weights at addresses that stay; plain elsewhere."""
    return CapturedModel(CudaRecorder()) if resident and device.type == "cuda" else WholeModel()


def _shapes(tensors: Sequence[Tensor]) -> _Shapes:
    return tuple((tensor.shape, tensor.dtype) for tensor in tensors)


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """All in as few kernels as the device can."""
    torch._foreach_copy_(list(targets), list(sources))
