"""Pages: nothing leaks, nothing is given back twice, nobody reads what is not his."""

import random

import pytest
import torch

from reelray.proto.bank_rule import BankRule
from reelray.proto.errors import ResourceError
from reelray.proto.memory_rule import Commit, MemoryRule, Placement, Sink
from reelray.proto.storage import Storage
from reelray.workers.memory.entries import Drop, Fold, Frame, Mean
from reelray.workers.memory.page_format import KeyShape
from reelray.workers.memory.pool import PagePool
from reelray.workers.memory.regions import Regions
from reelray.workers.memory.video_memory import VideoMemory
from reelray.workers.memory.workspace import Staging

SHAPE = KeyShape(layers=2, heads=2, width=4, dtype=torch.float32)
CPU = torch.device("cpu")


def make_pool(pages=12, rows=4):
    return PagePool.make(SHAPE, pages=pages, rows=rows, device=CPU, poison=True)


def test_bytes_are_those_of_the_formula():
    assert SHAPE.token_bytes == 2 * 2 * 2 * 4 * 4
    pool = make_pool()
    assert pool.page_bytes == 4 * SHAPE.token_bytes
    assert [pool.pages_for(tokens) for tokens in (1, 4, 5)] == [1, 1, 2]


def test_what_was_written_is_read_and_what_was_freed_is_poison():
    pool = make_pool()
    frames = [pool.take(2), pool.take(2)]
    keys, values = torch.randn(2, 12, 2, 4)
    pool.writer(frames, 6)(1, keys, values)
    for first, pages in enumerate(frames):
        found = pool.reader([pages], 6)(1)
        assert torch.equal(found[0], keys[6 * first : 6 * first + 6])
        assert torch.equal(found[1], values[6 * first : 6 * first + 6])
    both = pool.reader(frames[::-1], 6)(1)
    assert torch.equal(both[0], torch.cat([keys[6:], keys[:6]]))
    pool.hold(frames[0][:1])
    pool.drop(frames[0])
    with pytest.raises(ValueError, match="free"):
        pool.reader(frames[:1], 6)
    assert torch.equal(pool.reader([frames[0][:1]], 4)(1)[0], keys[:4])
    again = {pool.take(1)[0] for _ in range(pool.free)}
    assert frames[0][1] in again
    assert pool.reader([frames[0][1:]], 4)(1)[0].isnan().all()


def test_a_page_is_given_back_once():
    pool = make_pool()
    pages = pool.take(3)
    pool.drop(pages)
    with pytest.raises(ValueError, match="free"):
        pool.drop(pages[:1])
    with pytest.raises(ValueError, match="free"):
        pool.hold(pages[:1])
    held = pool.take(2)
    with pytest.raises(ValueError, match="repeat"):
        pool.drop([held[0], held[0]])
    with pytest.raises(ResourceError, match="11 pages"):
        pool.take(11)
    assert pool.free == 10


RULES = (
    MemoryRule(local=6),
    MemoryRule(local=4, sink=3),
    MemoryRule(local=4, sink=2, sink_kind=Sink.MOVING, placement=Placement.RELATIVE),
    MemoryRule(local=4, sink=1, means=(0.1, 0.5), placement=Placement.RELATIVE),
    MemoryRule(local=2, sink=1, bank=BankRule(size=2)),
    MemoryRule(local=6, bank=BankRule(size=3, every=2, repeats=True)),
    MemoryRule(local=8, sink=4, sink_kind=Sink.BOUNCING, placement=Placement.RELATIVE),
    MemoryRule(local=3, sink=1, commit=Commit.REBUILD, placement=Placement.RELATIVE),
)


def advance(video, staging, rng):
    """Go on by a chunk, as the engine does."""
    regions, first = video.regions, video.regions.committed
    video.settle([[rng.random() for _ in range(SHAPE.layers)] for _ in range(3)])
    if regions.rule.commit is not Commit.REBUILD:
        video.commit(staging, first, 2)
        return
    frames = regions.rule.frames_anew(first + 2, 2)
    video.begin_anew()
    for frame in frames:
        video.commit_again(staging, (frame,))


@pytest.mark.parametrize("seed", range(4))
def test_ten_thousand_operations_leave_nothing_behind(seed):
    """Videos begin, commit, fork and end in any order; promises keep `take` from ever failing."""
    rng = random.Random(seed)
    pool = PagePool.make(SHAPE, pages=90, rows=4, device=CPU, poison=True)
    staging = Staging(SHAPE, window=2 * 6, device=CPU)
    videos: list[VideoMemory] = []
    refused = forks = 0
    for _ in range(2500):
        kind = rng.choice(("begin", "commit", "commit", "commit", "fork", "end"))
        try:
            if kind == "begin":
                videos.append(VideoMemory(Regions(rule=rng.choice(RULES), chunk=2), pool, 6))
            elif kind == "fork" and videos:
                videos.append(rng.choice(videos).fork())
                forks += 1
        except ResourceError:
            refused += 1
        if kind == "commit" and videos:
            advance(rng.choice(videos), staging, rng)
        if kind == "end" and videos and rng.random() < 0.6:
            videos.pop(rng.randrange(len(videos))).close()
        assert sum(video.held_bytes for video in videos) >= (pool.pages - pool.free) * pool.page_bytes
        assert pool.free >= pool.unpromised >= 0
    assert refused > 20
    assert forks > 20
    for video in videos:
        video.close()
        video.close()
    assert pool.free == pool.unpromised == pool.pages


def test_regions_say_what_becomes_of_every_frame():
    regions = Regions(rule=MemoryRule(local=4, sink=1, means=(0.25,), placement=Placement.RELATIVE), chunk=2)
    assert regions.commit(0, 2) == ()
    assert regions.attended == (Frame(index=0), Frame(index=1))
    assert regions.commit(2, 2) == (
        Fold(old=None, new=Frame(index=1), kept=0.75, into=Mean(slot=1, version=1)),
        Drop(entry=Frame(index=1)),
    )
    assert regions.attended == (Frame(index=0), Mean(slot=1, version=1), Frame(index=2), Frame(index=3))
    assert regions.positions(4, 2) == ((0, 1, 2, 3), (4, 5))
    with pytest.raises(ValueError, match="latent frame 6 was to be committed; 4 is next"):
        regions.commit(6, 2)


def test_absolute_places_are_those_in_the_video():
    regions = Regions(rule=MemoryRule(local=4, sink=1), chunk=2)
    for first in range(0, 10, 2):
        regions.commit(first, 2)
    assert regions.positions(10, 2) == ((0, 8, 9), (10, 11))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"local": 0}, "local is 0"),
        ({"local": 4, "means": (0.0,)}, "means"),
        ({"local": 4, "sink_kind": Sink.MOVING}, "use relative"),
        ({"local": 4, "sink_kept": 1.5}, "sink_kept is 1.5"),
        ({"local": 4, "commit_timestep": 1001}, "commit_timestep"),
        ({"local": 4, "means": (0.1,), "placement": Placement.RELATIVE, "storage": Storage.INT8}, "storage is int8"),
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        MemoryRule(**wrong)
