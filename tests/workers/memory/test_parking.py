"""Videos that rest in host memory: others have their pages, and they come back as they were."""

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
import torch

from reelray.proto.errors import ResourceError
from reelray.proto.memory_rule import MemoryRule, Placement, Sink
from reelray.proto.storage import Storage
from reelray.workers.engine.stream_memory import open_memory
from reelray.workers.memory.page_format import KeyShape
from reelray.workers.memory.regions import Frame
from reelray.workers.memory.room import Grid, MemoryRoom

SHAPE = KeyShape(layers=2, heads=2, width=4, dtype=torch.float32)
GRID, CHUNK, ROWS = Grid(rows=2, columns=3), 2, 4
PAGE_BYTES = ROWS * SHAPE.token_bytes
VIDEO_PAGES, DESK_PAGES = 4 * 2, (2 + 2 * 2) * 6 // ROWS
"""Of `RULE`: four frames of two pages; a workspace of two frames and the window, and the window once more."""
RULE = MemoryRule(local=4)


def stand_still(positions, grid):
    pairs = (1, len(positions) * grid.places, SHAPE.width // 2)
    return torch.ones(pairs), torch.zeros(pairs)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def make_room(*, pages, host_pages=1000, device="cpu"):
    return MemoryRoom(
        SHAPE,
        budget_bytes=pages * PAGE_BYTES,
        device=torch.device(device),
        angles=lambda positions, grid: tuple(part.to(device) for part in stand_still(positions, grid)),
        rows=ROWS,
        poison=True,
        host_bytes=host_pages * PAGE_BYTES,
    )


@dataclass(kw_only=True)
class Watched:
    """A video, and by the definition of its rule what it must show: frames by a number that is theirs alone."""

    room: MemoryRoom
    memory: object
    rule: MemoryRule
    sink: list = field(default_factory=list)
    local: list = field(default_factory=list)
    committed: int = 0
    rests: bool = False

    @classmethod
    def open(cls, room, rule=RULE):
        return cls(room=room, rule=rule, memory=room.open(rule, chunk=CHUNK, grid=GRID))

    def shown(self):
        view = self.memory.view(self.committed, CHUNK, records=True)
        if view.past is None:
            return view, []
        none = torch.zeros(2, 1, 0, 2, 4, device=self.room.arena.storage_PX.device)
        keys, values = view.past.extend(*none, layer=1, heads=range(2))
        assert torch.equal(keys, -values)
        frames = torch.unflatten(keys[0], 0, (-1, GRID.places)).flatten(1)
        assert (frames == frames[:, :1]).all()
        return view, [float(frame[0]) for frame in frames]

    def check(self):
        view, shown = self.shown()
        wanted = [mark for _, mark in self.sink + self.local]
        assert len(shown) == len(wanted)
        assert all(abs(one - other) <= 1e-5 * other for one, other in zip(shown, wanted, strict=True))
        return view

    def commit(self, first_mark):
        view = self.check()
        for number in range(CHUNK):
            frame = (self.committed + number, first_mark + number)
            (self.sink if len(self.sink) < self.rule.sink else self.local).append(frame)
        over = max(0, len(self.local) - (self.rule.local - CHUNK))
        leaving, self.local = self.local[:over], self.local[over:]
        if self.rule.sink_kind is Sink.MOVING:
            for number, (_, mark) in enumerate(leaving):  # index -1: a mean is no frame any more
                place, kept = number % len(self.sink), self.rule.sink_kept
                self.sink[place] = (-1, kept * self.sink[place][1] + (1 - kept) * mark)
        marks = torch.tensor([first_mark + number for number in range(CHUNK) for _ in range(GRID.places)])
        keys = marks[None, :, None, None].expand(1, -1, 2, 4).float().to(self.room.arena.storage_PX.device)
        for layer in range(SHAPE.layers):
            view.recorder.write(keys, -keys, layer=layer, heads=range(2))
        self.memory.commit(self.committed, CHUNK)
        self.committed += CHUNK

    def flush(self, keep):
        self.memory.flush(keep)
        self.local = self.local[max(0, len(self.local) - keep) :]

    def rewind(self, first):
        self.memory.rewind(first)
        self.sink, self.local = [frame for frame in self.sink if frame[0] < first], []
        self.committed = first

    def fork(self):
        return Watched(
            room=self.room, rule=self.rule, memory=self.memory.fork(), sink=[*self.sink], local=[*self.local],
            committed=self.committed, rests=self.rests,
        )  # fmt: skip

    def park(self):
        if not self.rests:
            self.check()  # its workspace shows what it will show again
        self.memory.park()
        self.rests = True

    def wake(self):
        self.memory.wake()
        self.rests = False
        self.check()


def assert_empty(room):
    arena, host = room.arena, room.host
    assert arena.free == arena.unpromised == arena.pages
    assert host.free == host.pages
    arena.drop_run(arena.take_run(arena.pages * arena.page_bytes))  # nothing stands in the way of anything


def test_a_video_that_rests_has_no_page_and_comes_back_as_it_was():
    room = make_room(pages=VIDEO_PAGES + DESK_PAGES)
    video = Watched.open(room)
    video.commit(10)
    video.commit(20)
    video.park()
    assert room.arena.free == room.arena.unpromised == room.arena.pages
    assert room.host.pages - room.host.free == 2 * 2
    assert set(room.arena.storage_PX.flatten().tolist()) == {255}
    video.wake()
    assert room.host.free == room.host.pages
    video.commit(30)
    video.check()
    video.memory.close()
    assert_empty(room)


def test_what_others_have_taken_meanwhile_is_refused_and_may_be_asked_for_again():
    room = make_room(pages=VIDEO_PAGES + DESK_PAGES)
    first = Watched.open(room)
    first.commit(10)
    with pytest.raises(ResourceError, match=f"takes {VIDEO_PAGES * PAGE_BYTES} bytes; 0 of"):
        Watched.open(room)
    first.park()
    second = Watched.open(room)
    for _ in range(2):
        with pytest.raises(ResourceError, match=f"takes {VIDEO_PAGES * PAGE_BYTES} bytes; 0 of .* are not promised"):
            first.wake()
    second.commit(50)
    second.memory.close()
    first.wake()
    first.commit(30)
    first.memory.close()
    assert_empty(room)


def test_resting_and_waking_may_be_said_twice():
    room = make_room(pages=VIDEO_PAGES + DESK_PAGES)
    video = Watched.open(room)
    video.commit(10)
    video.park()
    video.park()
    video.memory.prefetch()
    video.memory.prefetch()
    assert room.arena.unpromised == 0
    video.park()
    video.wake()
    video.wake()
    video.check()
    video.park()
    video.memory.close()
    video.memory.close()
    assert_empty(room)


def test_a_host_without_memory_refuses_and_the_video_stays_awake():
    room = make_room(pages=VIDEO_PAGES + DESK_PAGES, host_pages=3)
    video = Watched.open(room)
    video.commit(10)
    with pytest.raises(ResourceError, match=f"takes {4 * PAGE_BYTES} bytes of host memory; {3 * PAGE_BYTES} of"):
        video.memory.park()
    video.commit(20)
    video.check()


def test_a_fork_stays_when_the_other_one_rests():
    room = make_room(pages=2 * VIDEO_PAGES + DESK_PAGES)
    video = Watched.open(room)
    video.commit(10)
    other = video.fork()
    video.park()
    other.commit(20)
    video.wake()
    video.commit(30)
    other.check()
    for one in (video, other):
        one.memory.close()
    assert_empty(room)


@pytest.mark.parametrize("storage", Storage)
def test_eight_sessions_share_pages_for_three(storage):
    """Each goes on from a pool that holds three of them, whoever is awake."""
    rule = MemoryRule(local=4, sink=1, storage=storage)
    alone = Watched.open(make_room(pages=100), rule)
    room = make_room(pages=alone.room.arena.pages - alone.room.arena.unpromised)
    desk = alone.room.arena.pages_of((3 + 2 * 2) * 6 * SHAPE.token_bytes)
    own = room.arena.pages - desk
    room = make_room(pages=3 * own + desk)
    sessions, awake = [], []
    for turn in range(8 * 4):
        if turn < 8:
            if turn >= 3:
                with pytest.raises(ResourceError, match="not promised"):
                    Watched.open(room, rule)
                awake.pop(0).park()
            sessions.append(Watched.open(room, rule))
            awake.append(sessions[-1])
        session = sessions[turn % 8]
        if session.rests:
            awake.pop(0).park()
            session.wake()
            awake.append(session)
        session.commit(10 * turn + 5)
    assert len(awake) == 3
    for session in sessions:
        session.memory.close()
    assert_empty(room)


RULES = (
    RULE,
    MemoryRule(local=4, sink=3),
    MemoryRule(local=6, sink=1),
    MemoryRule(local=4, sink=2, sink_kind=Sink.MOVING, sink_kept=0.75, placement=Placement.RELATIVE),
)


class Crowd:
    """Videos to which anything may happen; what cannot be done at the moment is passed by."""

    def __init__(self, room, seed):
        self.room, self.rng, self.videos, self.marks = room, random.Random(seed), [], 0

    def pick(self, *, rests):
        return self.rng.choice([video for video in self.videos if video.rests is rests])

    def begin(self):
        self.videos.append(Watched.open(self.room, self.rng.choice(RULES)))

    def commit(self):
        self.marks += CHUNK
        self.pick(rests=False).commit(self.marks)

    def fork(self):
        """Costs no page, and is promised all that it may need; of a video that rests it is a copy beside it."""
        video, arena = self.rng.choice(self.videos), self.room.arena
        free, unpromised, shared = arena.free, arena.unpromised, self.room.shared_bytes
        self.videos.append(video.fork())
        memory = video.memory.memory
        assert arena.free == free
        assert arena.unpromised == unpromised - (0 if memory.is_parked else memory.most_pages)
        assert self.room.shared_bytes == shared + (0 if memory.is_parked else memory.held_bytes)

    def flush(self):
        self.pick(rests=False).flush(self.rng.randint(0, 2))

    def rewind(self):
        video = self.pick(rests=False)
        video.rewind(CHUNK * self.rng.randint(0, video.committed // CHUNK))

    def park(self):
        self.pick(rests=False).park()

    def prefetch(self):
        self.pick(rests=True).memory.prefetch()

    def wake(self):
        self.pick(rests=True).wake()

    def end(self):
        if self.rng.random() < 0.5:
            self.rng.shuffle(self.videos)
            self.videos.pop().memory.close()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(2))
def test_ten_thousand_operations_leave_nothing_behind(seed, device):
    """Whoever shows anything shows what is his; whatever is freed is poison, so a page given away too soon is seen."""
    room = make_room(pages=110, host_pages=50, device=device)
    crowd = Crowd(room, seed)
    kinds = ("begin", "commit", "commit", "commit", "fork", "flush", "rewind", "park", "prefetch", "wake", "end")
    done = Counter()
    for _ in range(10_000):
        kind = crowd.rng.choice(kinds)
        try:
            getattr(crowd, kind)()
            done[kind] += 1
        except IndexError:
            continue  # nobody is there for it
        except ResourceError:
            done["refused"] += 1
        assert room.arena.free >= room.arena.unpromised >= 0
        assert room.host.free >= 0
    assert min(done.values()) > 50, done
    for video in crowd.videos:
        video.memory.close()
        video.memory.close()
    assert_empty(room)


def test_what_rests_beside_a_stream_comes_back_with_it():
    room = make_room(pages=100)
    kinds = [{"chunk": CHUNK, "grid": GRID, "branch": branch} for branch in range(2)]
    stream = open_memory(RULE, kinds, room=room, branches=2)
    beside = [torch.arange(40), torch.randn(3, 3)]
    wanted = [tensor.clone() for tensor in beside]
    stream.park(beside)
    for tensor in beside:
        tensor.zero_()
    assert room.host.free < room.host.pages
    stream.prefetch()
    stream.park()  # others were sooner
    assert room.arena.free == room.arena.pages
    assert all(torch.equal(one, two) for one, two in zip(stream.wake(), wanted, strict=True))
    assert stream.wake() == []
    room.host.pages = 1
    with pytest.raises(ResourceError, match="host memory"):
        stream.park([torch.zeros(1000)])
    stream._memories[1].memory._held[Frame(index=0)] = room.arena.take(1)
    with pytest.raises(ResourceError, match="host memory"):
        stream.park([torch.zeros(1)])
    assert not stream.rests
    assert room.host.free == 1
    room.host.pages = 1000
    stream.park(wanted)
    stream.close()
    assert_empty(room)
