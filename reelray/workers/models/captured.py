"""Small forwards as CUDA graphs: the host hands the device a thousand kernels at once.

A chunk of three latent frames keeps an H200 busy for about as long as Python needs to launch its kernels, and a fourth
of it on four GPUs for much less. Shape suffixes: B batch, C channels, T latent frames, H/W latent height/width.
"""

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from reelray.workers.models.attention_op import AttentionOp
from reelray.workers.models.sharding import TokenShard
from reelray.workers.models.stages import Forward, Stages, WholeModel

_LOG = logging.getLogger(__name__)
TOKENS = 16384
"""Forwards of more tokens on this rank are bound by the device and not captured."""
GRAPHS = 16


class Recorder(Protocol):
    """Records what a function does to the device."""

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record without running.

        Returns:
            What runs it again on the same tensors, and the tensor that it leaves its result in.
        """
        ...


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory: they run one after the other."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        # NCCL's watchdog asks the device things from its own thread, which only "thread_local" allows meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = run()
        return graph.replay, result


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
        replay: Runs it.
        variables: What it reads; written before each run.
        constants: What it reads too, shared with other recordings.
        result: What it writes.
    """

    replay: Callable[[], None]
    variables: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    result: Tensor


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

    Kinds differ in shapes, tokens of this rank, and attention. Ranks that share a forward record and replay the same
    collectives in the same order.

    Args:
        record: Records.
        tokens: Most tokens of this rank that are recorded.
        graphs: Recordings kept; the one used longest ago goes first.
    """

    def __init__(self, record: Recorder, *, tokens: int = TOKENS, graphs: int = GRAPHS) -> None:
        self._record = record
        self._tokens = tokens
        self._graphs = graphs
        self._whole = WholeModel()
        self._recordings: OrderedDict[_Kind, _Recording | None] = OrderedDict()
        self._constants: dict[_Shapes, _Constants] = {}

    def evaluate(self, forward: Forward) -> Tensor:
        """See `Stages`."""
        if forward.stream.shape[1] > self._tokens or torch.is_grad_enabled():
            return self._whole.evaluate(forward)
        kind = _Kind.of(forward)
        if kind not in self._recordings:
            # The first time kernels are compiled and libraries choose algorithms, which cannot be recorded.
            self._keep(kind, None)
            return self._whole.evaluate(forward)
        recording = self._recordings[kind]
        if recording is None:
            recording = self._capture(forward)
            if recording is None:
                return self._whole.evaluate(forward)
            self._keep(kind, recording)
        self._recordings.move_to_end(kind)
        self._load(forward)
        _copy(recording.variables, forward.variables)
        recording.replay()
        return recording.result.clone()

    def _keep(self, kind: _Kind, recording: _Recording | None) -> None:
        self._recordings[kind] = recording
        if len(self._recordings) > self._graphs:
            self._recordings.popitem(last=False)
            used = {kind.constants for kind in self._recordings}
            self._constants = {shapes: room for shapes, room in self._constants.items() if shapes in used}

    def _capture(self, forward: Forward) -> _Recording | None:
        """Record; None where the device cannot, which is tried again next time."""
        variables = tuple(torch.empty_like(tensor) for tensor in forward.variables)
        _copy(variables, forward.variables)
        constants = self._load(forward)
        try:
            replay, result = self._record(lambda: self._whole.evaluate(forward.reading(variables, constants)))
        except torch.OutOfMemoryError:
            _LOG.warning(
                "no memory to capture a forward of %d tokens; it runs kernel by kernel", forward.stream.shape[1]
            )
            return None
        return _Recording(replay=replay, variables=variables, constants=constants, result=result)

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
