"""Frames that go from a rank to its leader through memory."""

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

from reelray.proto.events import Frames
from reelray.proto.request import RequestId
from reelray.proto.step_plan import StepReport
from reelray.workers.engine import frame_box
from reelray.workers.engine.frame_box import BoxAddress, FrameBox, FrameSlot


def make_report(*data: bytes) -> StepReport:
    frames = (Frames(request_id=RequestId("a"), first_frame=0, count=1, height=1, width=1, data=one) for one in data)
    return StepReport(sequence=1, generation=0, frames=tuple(frames))


def put(address, reports, answers):
    slot = FrameSlot(address)
    for report in reports:
        answers.put(slot.put(report))


def test_another_process_puts_frames_in_and_the_leader_takes_them_out() -> None:
    box, context = FrameBox(), multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    reports = [make_report(os.urandom(70_000), b"", os.urandom(5)), make_report(os.urandom(9))]
    for report in reports:
        rank = context.Process(target=put, args=(box.address, [report], answers))
        rank.start()
        light, sizes = answers.get()
        assert sizes == tuple(len(one.data) for one in report.frames)
        assert {one.data for one in light.frames} == {b""}
        assert box.take(light, sizes) == report
        rank.join()
    box.close()


def test_frames_stay_in_the_report_where_the_box_is_not_the_one_that_is_meant(tmp_path) -> None:
    box, report = FrameBox(), make_report(b"frames")
    assert box.address is not None
    other = tmp_path / "other"
    other.write_bytes(b"somebody's file")
    wrong = [None, BoxAddress(path=str(tmp_path / "none"), ticket=box.address.ticket)]
    wrong += [BoxAddress(path=str(other), ticket=box.address.ticket), replace(box.address, ticket=b"x" * 16)]
    for address in wrong:
        assert FrameSlot(address).put(report) == (report, ())
    for end in os.pipe():
        with os.fdopen(end):
            address = BoxAddress(path=f"/proc/{os.getpid()}/fd/{end}", ticket=box.address.ticket)
            assert FrameSlot(address).put(report) == (report, ())
    assert box.take(report, ()) is report
    assert other.read_bytes() == b"somebody's file"
    box.close()


def test_frames_stay_in_the_report_where_there_is_no_memory_for_them(monkeypatch) -> None:
    box, report = FrameBox(), make_report(b"frames")
    slot = FrameSlot(box.address)

    def refuse(*_):
        raise OSError("no space left")

    for answer in (refuse, lambda *_: 3):
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", answer)
            assert slot.put(report) == (report, ())
    assert slot.put(report)[1] == (6,)
    assert slot.put(make_report()) == (make_report(), ())
    box.close()


def test_a_system_that_makes_no_such_files_sends_frames_with_their_report(monkeypatch) -> None:
    def refuse(_):
        raise PermissionError("memfd_create")

    monkeypatch.setattr(os, "memfd_create", refuse)
    box, report = FrameBox(), make_report(b"frames")
    assert box.address is None
    assert box.take(*FrameSlot(box.address).put(report)) is report
    box.close()


def test_the_memory_of_a_whole_clip_is_given_back(monkeypatch) -> None:
    monkeypatch.setattr(frame_box, "KEPT", 100_000)
    box = FrameBox()
    assert box.address is not None
    slot, path = FrameSlot(box.address), Path(box.address.path)
    for size, kept in ((50_000, 54_096), (200_000, 4_096), (50_000, 54_096)):
        report = make_report(os.urandom(size))
        assert box.take(*slot.put(report)) == report
        assert path.stat().st_size == kept
    box.close()


def test_nothing_is_left_when_the_leader_lets_go() -> None:
    box = FrameBox()
    assert box.address is not None
    path = Path(box.address.path)
    assert path.exists()
    box.close()
    box.close()
    assert box.address is None
    assert not path.exists() or "reelray-frames" not in str(path.readlink())
