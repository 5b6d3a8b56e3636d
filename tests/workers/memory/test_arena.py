"""Runs of pages among single ones: everything keeps its bytes wherever it is moved, and nothing is lost."""

import random

import pytest
import torch

from reelray.proto.errors import ResourceError
from reelray.workers.memory.arena import Arena, round_up

CPU = torch.device("cpu")


def make_arena(pages=12, page_bytes=32):
    return Arena(page_bytes=page_bytes, pages=pages, device=CPU, poison=True)


def fill(arena, pages, value):
    for place in arena.places(pages):
        arena.storage_PX[place] = value


def values(arena, pages):
    return {int(value) for place in arena.places(pages) for value in arena.storage_PX[place]}


def test_a_page_is_rounded_up_to_sixteen_bytes():
    assert [round_up(n) for n in (1, 16, 17, 512)] == [16, 16, 32, 512]
    assert make_arena(page_bytes=33).page_bytes == 48
    assert [make_arena().pages_of(n) for n in (1, 32, 33)] == [1, 1, 2]


def test_a_run_lies_side_by_side_and_what_was_in_its_way_is_moved():
    arena = make_arena(pages=8)
    singles = [arena.take(1) for _ in range(8)]
    for number, pages in enumerate(singles):
        fill(arena, pages, number)
    for number in (0, 2, 4, 6):
        arena.drop(singles[number])
    run = arena.take_run(4 * 32 - 3)
    assert run.room_X.shape == (125,)
    places = arena.places(run.pages)
    assert places == list(range(places[0], places[0] + 4))
    assert run.room_X.data_ptr() == arena.storage_PX[places[0]].data_ptr()
    run.room_X.fill_(99)
    assert [values(arena, singles[number]) for number in (1, 3, 5, 7)] == [{1}, {3}, {5}, {7}]
    assert arena.free == 0
    arena.drop_run(run)
    assert arena.free == 4
    assert all(values(arena, arena.take(1)) == {255} for _ in range(4))


def test_a_run_never_moves_and_nothing_lies_over_it():
    arena = make_arena(pages=9)
    first = arena.take_run(3 * 32)
    address = first.room_X.data_ptr()
    first.room_X.fill_(7)
    second = arena.take_run(3 * 32)
    second.room_X.fill_(8)
    fill(arena, arena.take(3), 9)
    assert set(first.room_X.tolist()) == {7}
    assert set(second.room_X.tolist()) == {8}
    assert first.room_X.data_ptr() == address


def test_runs_of_others_may_leave_no_place():
    arena = make_arena(pages=6)
    low, middle, _ = (arena.take_run(2 * 32) for _ in range(3))
    del low
    arena.drop_run(middle)
    with pytest.raises(ResourceError, match="96 bytes side by side"):
        arena.take_run(3 * 32)
    assert arena.free == 2
    arena.take_run(2 * 32)


def test_what_is_refused_says_how_many_bytes_there_are():
    arena = make_arena(pages=4)
    with pytest.raises(ResourceError, match="takes 160 bytes, more than the 128 that there are"):
        arena.promise(5)
    arena.promise(3)
    with pytest.raises(ResourceError, match="takes 64 bytes; 32 of 128 are not promised"):
        arena.promise(2)
    arena.promise(1)
    assert arena.unpromised == 0


class Slow:
    """Copies that take until somebody waits for them."""

    def __init__(self):
        self.is_done = False

    def wait(self):
        self.is_done = True


def test_pages_that_are_being_copied_go_to_others_last():
    arena = make_arena(pages=4)
    copied = arena.take(2)
    fill(arena, copied, 5)
    arena.transfers.last = slow = Slow()
    arena.drop(copied)
    assert arena.free == 4
    first = arena.take(2)
    assert not slow.is_done
    assert not set(first) & set(copied)
    assert set(arena.take(1)) <= set(copied)
    assert slow.is_done


def test_a_run_waits_for_copies_of_what_it_moves():
    arena = make_arena(pages=4)
    held = arena.take(2)
    arena.transfers.last = slow = Slow()
    arena.take_run(2 * 32)
    assert slow.is_done
    arena.drop(held)


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_runs_and_pages_keeps_every_byte(seed):
    rng, arena = random.Random(seed), make_arena(pages=24)
    pages, runs, refused = {}, {}, 0
    for number in range(1500):
        mark = number % 250
        kind = rng.choice(("page", "page", "run", "drop", "drop", "end"))
        if kind == "page" and arena.free:
            pages[number] = (arena.take(1), mark)
            fill(arena, pages[number][0], mark)
        elif kind == "run" and arena.free > 6:
            try:
                run = arena.take_run(rng.randint(1, 6 * 32))
            except ResourceError:
                refused += 1
                continue
            run.room_X.fill_(mark)
            runs[number] = (run, mark)
        elif kind == "drop" and pages:
            arena.drop(pages.pop(rng.choice(list(pages)))[0])
        elif kind == "end" and runs:
            arena.drop_run(runs.pop(rng.choice(list(runs)))[0])
        assert all(values(arena, held) == {mark} for held, mark in pages.values())
        assert all(set(run.room_X.tolist()) == {mark} for run, mark in runs.values())
        assert arena.free == 24 - len(pages) - sum(len(run.pages) for run, _ in runs.values())
    for held, _ in pages.values():
        arena.drop(held)
    for run, _ in runs.values():
        arena.drop_run(run)
    assert arena.free == 24
    assert set(arena.storage_PX.flatten().tolist()) == {255}
    arena.take_run(24 * 32)


def test_a_run_is_taken_again_only_as_it_was():
    arena = make_arena(pages=8)
    run = arena.take_run(3 * 32)
    address = run.room_X.data_ptr()
    arena.drop_run(run)
    others = arena.take(5)
    assert not set(others) & set(run.pages)  # the last that others are given
    assert arena.retake_run(run)
    assert arena.free == 0
    assert arena.places(run.pages) == list(range(run.first, run.first + 3))
    arena.drop_run(run)
    one = arena.take(1)
    assert not arena.retake_run(run)
    arena.drop(one)
    assert arena.retake_run(run)
    assert run.room_X.data_ptr() == address
    arena.drop_run(run)
    arena.drop(others)
    larger = arena.take_run(7 * 32)
    assert not arena.retake_run(run)
    arena.drop_run(larger)
    assert arena.free == 8
