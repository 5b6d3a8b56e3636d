"""Frames of a rank, handed to the leader of the same machine through memory instead of the connection.

Twelve frames of 832 x 480 are 14 MB: pickled through a socket they are copied seven times, which takes as long as half
a denoise step. Here the device writes them into one of two bays of a file that has no name, and the leader reads them
there while the rank is at work on the next plan, which may fill the other bay. The file ends with the leader.
"""

import logging
import mmap
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from reelray.proto.events import Frames
from reelray.proto.step_plan import StepReport

_LOG = logging.getLogger(__name__)
BAY = 64 * 2**20
"""Bytes of each bay; memory is taken as far as one was filled. Larger pieces come behind both, and are given back."""
BEGIN = 4096
"""Bytes before the bays; the first of them are the ticket."""
Place = tuple[int, int]
"""Where frames begin in the file, and how many bytes they have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxAddress:
    """Where a box is, for a process of the same machine.

    Args:
        path: Of the leader's open file.
        ticket: What the file begins with: elsewhere the path may be that of another file.
    """

    path: str
    ticket: bytes


class FrameBox:
    """The leader's end of one rank's box."""

    def __init__(self) -> None:
        self._ticket = secrets.token_bytes(16)
        self._file = _make(self._ticket)
        self._bays = None if self._file is None else memoryview(mmap.mmap(self._file, _TAIL, prot=mmap.PROT_READ))

    @property
    def address(self) -> BoxAddress | None:
        """For the rank; None where the system makes no such files."""
        if self._file is None:
            return None
        return BoxAddress(path=f"/proc/{os.getpid()}/fd/{self._file}", ticket=self._ticket)

    def take(self, report: StepReport, places: Sequence[Place]) -> StepReport:
        """The report with its frames, which lie in the box; before the rank is told anything.

        Their data may be views: `keep_frames` copies them, before the report after the next is taken.
        """
        if not places:
            return report
        assert self._file is not None, "only a box with an address is put into"
        frames = [replace(one, data=self._read(*place)) for one, place in zip(report.frames, places, strict=True)]
        if any(begin >= _TAIL for begin, _ in places):
            os.ftruncate(self._file, _TAIL)
        return replace(report, frames=tuple(frames))

    def close(self) -> None:
        """Let go of the memory, as soon as nobody has a view of it."""
        self._bays = None
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _read(self, begin: int, size: int) -> bytes:
        assert self._file is not None
        assert self._bays is not None
        if begin >= _TAIL:
            return os.pread(self._file, size, begin)
        return cast("bytes", self._bays[begin : begin + size])


class FrameSlot:
    """The rank's end.

    Args:
        address: Of its box; where it cannot be reached, frames go with their report.
    """

    def __init__(self, address: BoxAddress | None) -> None:
        self._file = None if address is None else _open(address)
        self._bays: list[_Bay] = []
        if self._file is not None:
            file = torch.frombuffer(mmap.mmap(self._file, _TAIL), dtype=torch.uint8)
            self._bays = [_Bay(file[BEGIN + n * BAY : BEGIN + (n + 1) * BAY], BEGIN + n * BAY) for n in range(2)]
        self._filled: list[_Bay] = []  # since the last report

    def room(self, count: int) -> Tensor | None:
        """So many bytes [X] of the next bay, for one piece of a report; None where there is no bay for it."""
        if count > BAY or self._filled or not self._bays:
            return None
        self._bays.reverse()
        self._filled = [self._bays[0]]
        return self._bays[0].room(count)

    def put(self, report: StepReport) -> tuple[StepReport, tuple[Place, ...]]:
        """Put the report's frames into the box, unless they lie there: late ones since an earlier report.

        Returns:
            The report without their bytes and where they are, or as it was and nothing.
        """
        self._filled = []
        if self._file is None or not report.frames:
            return keep_frames(report), ()
        places, end = [], _TAIL
        try:
            for one in report.frames:
                begin = next((bay.begin for bay in self._bays if bay.holds(one)), end)
                places.append((begin, len(one.data)))
                if begin == end:
                    if os.pwrite(self._file, one.data, end) < len(one.data):
                        return keep_frames(report), ()
                    end += len(one.data)
        except OSError:  # no memory for them
            return keep_frames(report), ()
        return replace(report, frames=tuple(replace(one, data=b"") for one in report.frames)), tuple(places)


class _Bay:
    """A part of the file.

    Args:
        memory_X: Its bytes.
        begin: Where it begins in the file.
    """

    def __init__(self, memory_X: Tensor, begin: int) -> None:
        self.begin = begin
        self._memory_X = memory_X
        self._locked = 0

    def room(self, count: int) -> Tensor:
        """The first bytes; a GPU copies to them directly."""
        if count > self._locked and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._lock(count)
        return self._memory_X[:count]

    def holds(self, frames: Frames) -> bool:
        """Whether the data of frames is what lies at the beginning."""
        if not frames.data or not is_view(frames.data):
            return False
        return torch.frombuffer(frames.data, dtype=torch.uint8).data_ptr() == self._memory_X.data_ptr()

    def _lock(self, count: int) -> None:
        runtime, address = torch.cuda.cudart(), self._memory_X.data_ptr()  # type: ignore[no-untyped-call]
        if self._locked > 0:
            runtime.cudaHostUnregister(address)
        done = int(runtime.cudaHostRegister(address, count, 0)) == 0
        if not done:
            _LOG.warning("%d bytes for frames cannot be page-locked; copies from the device take longer", count)
        self._locked = count if done else BAY  # not tried again


def view_frames(frames_FHWC: Tensor) -> bytes:
    """Frames on the CPU as data, without a copy; `keep_frames` makes one."""
    return cast("bytes", memoryview(cast("Any", frames_FHWC.contiguous().view(-1).numpy())))


def is_view(data: object) -> bool:
    """Whether data of frames lies in memory that is used again."""
    return isinstance(data, memoryview)


def keep_frames(report: StepReport) -> StepReport:
    """The report with frames of its own, where they are views of memory that is used again."""
    if not any(is_view(one.data) for one in report.frames):
        return report
    return replace(report, frames=tuple(replace(one, data=bytes(one.data)) for one in report.frames))


_TAIL = BEGIN + 2 * BAY


def _make(ticket: bytes) -> int | None:
    if not hasattr(os, "memfd_create"):
        return None
    try:
        file = os.memfd_create("reelray-frames")
    except OSError:  # a system may forbid them
        return None
    try:
        os.ftruncate(file, _TAIL)
        os.pwrite(file, ticket, 0)
    except OSError:  # or files of that length
        os.close(file)
        return None
    return file


def _open(address: BoxAddress) -> int | None:
    try:
        file = os.open(address.path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    # On another machine the path is whatever a process of the same number has open.
    if stat.S_ISREG(os.fstat(file).st_mode) and os.pread(file, len(address.ticket), 0) == address.ticket:
        return file
    os.close(file)
    return None
