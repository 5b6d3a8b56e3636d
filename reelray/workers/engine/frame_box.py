"""Frames of a rank, handed to the leader of the same machine through memory instead of the connection.

Twelve frames of 832 x 480 are 14 MB: pickled through a socket they are copied seven times, which takes as long as half
a denoise step. Here the rank writes them into a file that has no name, and the leader reads them out. The file ends
with the leader.
"""

import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace

from reelray.proto.step_plan import StepReport

KEPT = 64 * 2**20
"""Bytes that a box may keep for the next frames; the memory of a whole clip is given back."""
BEGIN = 4096
"""Bytes before the frames; the first of them are the ticket."""


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

    @property
    def address(self) -> BoxAddress | None:
        """For the rank; None where the system makes no such files."""
        if self._file is None:
            return None
        return BoxAddress(path=f"/proc/{os.getpid()}/fd/{self._file}", ticket=self._ticket)

    def take(self, report: StepReport, sizes: Sequence[int]) -> StepReport:
        """The report with its frames, which have so many bytes each in the box; before the rank is told anything."""
        if not sizes:
            return report
        assert self._file is not None, "only a box with an address is put into"
        frames, begin = [], BEGIN
        for one, size in zip(report.frames, sizes, strict=True):
            frames.append(replace(one, data=os.pread(self._file, size, begin)))
            begin += size
        if begin > KEPT:
            os.ftruncate(self._file, BEGIN)
        return replace(report, frames=tuple(frames))

    def close(self) -> None:
        """Let go of the memory."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class FrameSlot:
    """The rank's end.

    Args:
        address: Of its box; where it cannot be reached, frames go with their report.
    """

    def __init__(self, address: BoxAddress | None) -> None:
        self._file = None if address is None else _open(address)

    def put(self, report: StepReport) -> tuple[StepReport, tuple[int, ...]]:
        """Put the report's frames into the box.

        Returns:
            The report without their bytes and how many each has, or as it was and nothing.
        """
        if self._file is None or not report.frames:
            return report, ()
        sizes, begin = tuple(len(one.data) for one in report.frames), BEGIN
        try:
            for one, size in zip(report.frames, sizes, strict=True):
                if os.pwrite(self._file, one.data, begin) < size:
                    return report, ()
                begin += size
        except OSError:  # no memory for them
            return report, ()
        return replace(report, frames=tuple(replace(one, data=b"") for one in report.frames)), sizes


def _make(ticket: bytes) -> int | None:
    if not hasattr(os, "memfd_create"):
        return None
    try:
        file = os.memfd_create("reelray-frames")
    except OSError:  # a system may forbid them
        return None
    os.pwrite(file, ticket, 0)
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
