"""Frames that go from a rank to its leader through memory."""

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import torch

from reelray.proto.events import Frames
from reelray.proto.request import RequestId
from reelray.proto.step_plan import StepReport
from reelray.workers.engine import frame_box
from reelray.workers.engine.frame_box import BoxAddress, FrameBox, FrameSlot, keep_frames, view_frames


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
        assert [size for _, size in sizes] == [len(one.data) for one in report.frames]
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
    assert [size for _, size in slot.put(report)[1]] == [6]
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


def land(slot, data):
    """What a decoder does: it fills a bay, and the report shows it."""
    room_X = slot.room(len(data))
    if room_X is None:
        return make_report(data)
    room_X.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    report = make_report(data)
    return replace(report, frames=(replace(report.frames[0], data=view_frames(room_X)),))


def test_what_landed_in_a_bay_stays_there_until_the_report_after_the_next() -> None:
    box = FrameBox()
    slot, pieces = FrameSlot(box.address), [os.urandom(size) for size in (70_000, 90_000, 5, 70_000, 123)]
    taken = []
    for data in pieces:
        light, places = slot.put(land(slot, data))
        assert light.frames[0].data == b""
        assert [size for _, size in places] == [len(data)]
        taken.append(box.take(light, places).frames[0])
        assert [bytes(one.data) for one in taken[-2:]] == pieces[len(taken) - 2 if len(taken) > 1 else 0 : len(taken)]
    assert bytes(taken[0].data) != pieces[0]  # the third piece lies in the same bay
    box.close()


def test_kept_frames_are_their_own() -> None:
    box = FrameBox()
    slot, data = FrameSlot(box.address), os.urandom(100)
    kept = keep_frames(box.take(*slot.put(land(slot, data))))
    for _ in range(2):
        slot.put(land(slot, os.urandom(100)))
    assert kept.frames[0].data == data
    assert keep_frames(kept) is kept
    box.close()


def test_a_second_piece_of_a_report_and_one_that_is_too_large_come_behind_the_bays(monkeypatch) -> None:
    monkeypatch.setattr(frame_box, "BAY", 100_000)
    monkeypatch.setattr(frame_box, "_TAIL", frame_box.BEGIN + 200_000)
    box = FrameBox()
    assert box.address is not None
    slot, path = FrameSlot(box.address), Path(box.address.path)
    assert slot.room(100_001) is None
    first, second = os.urandom(60_000), os.urandom(150_000)
    one = land(slot, first)
    assert slot.room(10) is None
    both = replace(one, frames=(*one.frames, *make_report(second).frames))
    light, places = slot.put(both)
    assert path.stat().st_size == frame_box.BEGIN + 350_000
    assert [bytes(frames.data) for frames in box.take(light, places).frames] == [first, second]
    assert path.stat().st_size == frame_box.BEGIN + 200_000
    assert slot.room(10) is not None
    box.close()


def test_views_are_copied_where_there_is_no_box() -> None:
    report = make_report(b"frames")
    viewed = replace(report, frames=(replace(report.frames[0], data=memoryview(b"frames")),))
    kept, places = FrameSlot(None).put(viewed)
    assert places == ()
    assert isinstance(kept.frames[0].data, bytes)
    assert FrameSlot(None).room(10) is None


def test_nothing_is_left_when_the_leader_lets_go() -> None:
    box = FrameBox()
    assert box.address is not None
    path = Path(box.address.path)
    assert path.exists()
    box.close()
    box.close()
    assert box.address is None
    assert not path.exists() or "reelray-frames" not in str(path.readlink())
