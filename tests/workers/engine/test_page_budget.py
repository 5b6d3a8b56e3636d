"""What pages get of a device's memory, and who is refused for what runs beside them."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from reelray.proto.chunking import Chunking
from reelray.proto.errors import ResourceError
from reelray.proto.memory_rule import Commit, MemoryRule, Placement, PromptSwitch
from reelray.proto.recipe import Guidance, Recipe, Schedule, Solver
from reelray.proto.storage import Storage
from reelray.workers.engine.footprint import Footprint, ShapeClass
from reelray.workers.engine.memory_rooms import MemoryRooms
from reelray.workers.engine.page_budget import MARGIN, Need, PageBudget
from reelray.workers.engine.station import Station
from reelray.workers.memory.page_format import KeyShape
from reelray.workers.memory.room import Grid, MemoryRoom, find_need
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.parallel.local_ranks import run_ranks
from tests.support.budget_cases import open_on_ranks
from tests.support.requests import make_facts, make_request

MB = 1_000_000
SMALL = ShapeClass(width=48, height=32, window=2, piece=2)
LARGE = replace(SMALL, width=96)
RULE = MemoryRule(local=4, sink=1)


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


def request_of(name="a", *, memory=RULE, chunk=2, guidance=1.0, **changes):
    recipe = Recipe(
        name="stream",
        schedule=Schedule(solver=Solver.X0_RENOISE, timesteps=(1000.0, 500.0)),
        guidance=Guidance(scale=guidance),
        chunking=Chunking(latent_frames=chunk),
        memory=memory,
    )
    return make_request(name, recipe=recipe, latent_frames=8, **({"width": 48, "height": 32} | changes))


def in_flight(request):
    """Two chunks share each forward."""
    chunking = replace(request.recipe.chunking, stagger=1)
    return replace(request, recipe=replace(request.recipe, chunking=chunking))


class Gauge:
    """A device of 100 MB, of which pages may have taken some; a window of 48x32 needs 10 MB, its decoder 2 MB."""

    def __init__(self):
        self.measured, self.rooms = [], None

    def free(self):
        taken = sum(room.arena.pages * room.arena.page_bytes for room in self.rooms._rooms.values())
        return 100 * MB - taken

    def measure(self, shape, *, decodes, beside):  # noqa: ARG002
        self.measured.append((shape, decodes))
        times = shape.area // SMALL.area
        return Footprint(peak_bytes=10 * MB * times, stream_bytes=2 * MB * times if decodes else 0)


def make_rooms(model, **options):
    gauge = Gauge()
    gauge.rooms = rooms = MemoryRooms(model, gauge=gauge, **options)
    return rooms, gauge


def test_a_class_is_its_picture_its_widest_window_and_its_pieces():
    facts = make_facts(decode_pixels=4 * 48 * 32 * 3)
    assert ShapeClass.of(request_of(chunk=2), facts) == SMALL
    wider = MemoryRule(local=5, switch=PromptSwitch.RECACHE, switch_frames=5)
    assert ShapeClass.of(request_of(chunk=4, memory=wider), facts) == replace(SMALL, window=5, piece=3)
    assert ShapeClass.of(in_flight(request_of(chunk=2)), facts) == replace(SMALL, window=4)
    assert ShapeClass.of(request_of(width=96), facts) == replace(LARGE, piece=1)
    assert SMALL.needs_no_more_than(LARGE)
    assert not LARGE.needs_no_more_than(SMALL)
    assert not replace(SMALL, window=5).needs_no_more_than(LARGE)
    assert not replace(SMALL, piece=5).needs_no_more_than(LARGE)


def test_pages_get_what_windows_and_decoders_leave():
    """Of 100: 3 are left alone, 10 are for what runs, and 16 streams take 3 of pages and 2 of decoder; 3 are shared."""
    footprint, need = Footprint(peak_bytes=10 * MB, stream_bytes=2 * MB), Need(own_bytes=3 * MB, shared_bytes=3 * MB)
    budget = PageBudget.divide(100 * MB, SMALL, footprint, need, int)
    assert MARGIN == 0.03
    assert budget.streams == (97 - 10 - 3) // 5 == 16
    assert budget.page_bytes == (97 - 10 - 16 * 2) * MB >= 16 * need.own_bytes + need.shared_bytes
    decoders = budget.streams * footprint.stream_bytes
    assert budget.page_bytes + decoders + footprint.peak_bytes <= 97 * MB


def test_ranks_of_a_lane_go_by_the_least_of_each_number():
    footprint, need = Footprint(peak_bytes=10 * MB, stream_bytes=2 * MB), Need(own_bytes=3 * MB, shared_bytes=MB)
    asked = []

    def least(number):
        asked.append(number)
        return number - 1

    budget = PageBudget.divide(100 * MB, SMALL, footprint, need, least)
    assert asked == [17, (97 - 10 - 16 * 2) * MB]
    assert (budget.streams, budget.page_bytes) == (16, asked[1] - 1)


def test_what_cannot_run_at_all_leaves_no_bytes_for_pages():
    footprint = Footprint(peak_bytes=200 * MB, stream_bytes=2 * MB)
    budget = PageBudget.divide(100 * MB, SMALL, footprint, Need(own_bytes=MB, shared_bytes=MB), int)
    assert (budget.streams, budget.page_bytes) == (1, 0)


def test_one_decoder_too_many_is_refused_in_bytes():
    footprint = Footprint(peak_bytes=MB, stream_bytes=2 * MB)
    budget = PageBudget(shape=LARGE, footprint=footprint, page_bytes=MB, streams=2)
    budget.check(LARGE, [LARGE])
    budget.check(SMALL, [LARGE, SMALL])
    with pytest.raises(ResourceError, match="keeps 2000000 bytes; 1000000 of 4000000 are not promised"):
        budget.check(LARGE, [LARGE, SMALL])


def test_what_a_room_promises_is_what_the_budget_counts_on():
    anchored = replace(RULE, placement=Placement.ANCHORED)
    for storage, places, whose in product(Storage, (127, 128, 203, 204, 205, 408, 1560), (RULE, anchored)):
        rule, grid = replace(whose, storage=storage), Grid(rows=1, columns=places)
        for dtype in (torch.bfloat16, torch.float32):
            shape = KeyShape(layers=1, heads=2, width=16, dtype=dtype)
            own, shared = find_need(shape, rule, chunk=2, grid=grid)
            room = MemoryRoom(shape, budget_bytes=own + shared, device=torch.device("cpu"), angles=None)
            room.open(rule, chunk=2, grid=grid)
            assert room.arena.unpromised == 0


def test_every_noise_level_with_a_memory_of_its_own_is_counted(model):
    rooms, station = make_rooms(model)[0], Station()
    rule = MemoryRule(local=2, sink=2, commit=Commit.EVERY_STEP)
    request = request_of(chunk=1, memory=rule, guidance=3.0)
    chunking = replace(request.recipe.chunking, first_latent_frames=2)
    rooms.open(replace(request, recipe=replace(request.recipe, chunking=chunking)), station)
    (room,) = rooms._rooms.values()
    grid = Grid(rows=2, columns=3)
    own, shared = find_need(model.key_shape(model.heads), rule, chunk=1, first=2, grid=grid)
    taken = (room.arena.pages - room.arena.unpromised) * room.arena.page_bytes
    assert taken == 4 * (own + shared)  # two levels, two branches
    least = int(0.97 * 100 * MB) - 10 * MB - 4 * shared
    assert rooms._budgets[station].streams == least // (4 * own + 2 * MB)


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 3), (3.0, 6)])
def test_streams_that_share_forwards_are_measured_together_and_each_has_a_workspace(model, guidance, rows):
    rooms, gauge = make_rooms(model)
    station, request = Station(), request_of(guidance=guidance)
    held = [rooms.open(replace(request, request_id=name), station, seats=3) for name in "ab"]
    assert gauge.measured == [(replace(SMALL, rows=rows), True)]
    (room,) = rooms._rooms.values()
    own, shared = find_need(model.key_shape(model.heads), RULE, chunk=2, grid=Grid(rows=2, columns=3))
    branches, pages = rows // 3, room.arena.pages - room.arena.unpromised
    assert pages * room.arena.page_bytes == 2 * branches * (own + shared)
    held += [rooms.open(replace(request, request_id=name), station, seats=3) for name in "cd"]
    pages = room.arena.pages - room.arena.unpromised
    assert pages * room.arena.page_bytes == branches * (4 * own + 3 * shared)
    assert rooms._budgets[station].streams == (int(0.97 * 100 * MB) - 10 * MB - 3 * branches * shared) // (
        branches * own + 2 * MB
    )
    with pytest.raises(ResourceError, match="are here"):
        rooms.open(replace(request, request_id="e"), station, seats=4)


def test_the_first_stream_of_a_class_is_measured_and_pages_are_made_for_it(model):
    rooms, gauge = make_rooms(model)
    station = Station()
    held = [rooms.open(request_of("a"), station)]
    (room,) = rooms._rooms.values()
    budget = rooms._budgets[station]
    whole = room.arena.pages * room.arena.page_bytes
    assert budget.page_bytes - room.arena.page_bytes < whole <= budget.page_bytes
    assert whole + budget.streams * 2 * MB + 10 * MB <= 97 * MB
    while True:
        try:
            held.append(rooms.open(request_of(str(len(held))), station))
        except ResourceError:
            break
    assert len(held) == budget.streams
    assert gauge.measured == [(SMALL, True)]
    held.pop().close()
    held.append(rooms.open(request_of("z"), station))


def test_a_stream_that_rests_leaves_its_decoder_to_others_and_asks_for_it_again(model):
    rooms, _ = make_rooms(model)
    station = Station()
    rooms.open(request_of("a"), station).close()
    rooms._budgets[station] = replace(rooms._budgets[station], streams=1)
    first = rooms.open(request_of("a"), station)
    with pytest.raises(ResourceError, match="decoder"):
        rooms.open(request_of("b"), station)
    first.park()
    second = rooms.open(request_of("b"), station)
    with pytest.raises(ResourceError, match="decoder"):
        rooms.prefetch(first)
    assert first.rests
    second.close()
    rooms.prefetch(first)
    rooms.prefetch(first)
    assert not first.rests


def test_a_stream_beside_a_whole_clip_is_refused_until_the_clip_is_over(model):
    """Nobody has measured what the clip takes."""
    rooms, gauge = make_rooms(model)
    station, clip = Station(), make_request("clip", width=48, height=32)
    assert rooms.open(clip, station) is None
    with pytest.raises(ResourceError, match=r"a whole clip is being made.* REELRAY_MEMORY_GB"):
        rooms.open(request_of("a"), station)
    assert not gauge.measured
    rooms.forget(clip.request_id)
    streams = [rooms.open(request_of("a"), station)]
    assert rooms.open(clip, station) is None
    streams.append(rooms.open(request_of("b"), station))  # of a class that is here: nothing is divided anew


def test_a_larger_class_waits_until_nobody_is_left_and_then_memory_is_divided_anew(model):
    rooms, gauge = make_rooms(model)
    station = Station()
    small = rooms.open(request_of("a"), station)
    small_pages = rooms._budgets[station].page_bytes
    with pytest.raises(ResourceError, match=r"48x32 with windows of 2 latent frames .* 96x32 with 2 takes more"):
        rooms.open(request_of("b", width=96), station)
    small.park()
    with pytest.raises(ResourceError, match="takes more"):
        rooms.open(request_of("b", width=96), station)
    small.close()
    large = rooms.open(request_of("b", width=96), station)
    assert gauge.measured == [(SMALL, True), (LARGE, True)]
    assert rooms._budgets[station].page_bytes < small_pages
    (room,) = rooms._rooms.values()
    assert room.arena.pages == rooms._budgets[station].page_bytes // room.arena.page_bytes
    rooms.open(request_of("c"), station)
    large.close()
    assert len(gauge.measured) == 2


def test_a_whole_clip_gets_the_memory_that_the_last_stream_has_left(model):
    """Beside a stream it has what is left; afterwards memory is divided anew for the stream that comes then."""
    rooms, gauge = make_rooms(model)
    station = Station()
    clip = make_request("clip", latent_frames=2, width=48, height=32)
    first, second = (rooms.open(request_of(name), station) for name in "ab")
    taken = gauge.free()
    first.close()
    assert rooms.open(clip, station) is None
    assert gauge.free() == taken
    second.close()
    assert rooms.open(clip, Station()) is None
    assert gauge.free() == taken
    assert rooms.open(clip, station) is None
    assert gauge.free() == 100 * MB
    rooms.forget(clip.request_id)
    rooms.open(request_of("c"), station).close()
    assert len(gauge.measured) == 2


def test_ranks_with_other_rooms_promise_the_same(model):
    """Each gives part of its memory to rooms to come, and one has more of them already."""
    asked = []
    station = Station(least=lambda number: asked.append(number) or min(number, 40 * MB))
    rooms, _ = make_rooms(model, stations=[station, Station(heads_of=(0, 2))])
    rooms.open(request_of(), station)
    assert rooms._budgets[station].page_bytes in asked


def run_out(*_, **__):
    raise torch.OutOfMemoryError("none is left")


@pytest.mark.parametrize("mine", [True, False])
def test_a_lane_refuses_what_one_of_its_ranks_cannot_run(model, mine):
    """The others would wait for it in the next number that they agree on."""
    agreed = []
    station = Station(least=lambda number: agreed.append(number) or 0)
    rooms, gauge = make_rooms(model)
    if mine:
        gauge.measure = run_out
    with pytest.raises(ResourceError, match="one window and one decode of 48x32 do not fit"):
        rooms.open(request_of(), station)
    assert agreed == [int(not mine)]
    assert not rooms._budgets


def test_a_rank_that_does_not_decode_keeps_nothing_for_decoders(model):
    rooms, gauge = make_rooms(model)
    station = replace(Station(), role=replace(Station().role, decodes=False))
    rooms.open(request_of("a"), station)
    assert gauge.measured == [(SMALL, False)]
    assert rooms._budgets[station].footprint.stream_bytes == 0


def test_bytes_that_were_set_are_taken_as_they_are(model, monkeypatch):
    monkeypatch.setattr(model, "page_bytes", 7 * MB)
    rooms, gauge = make_rooms(model)
    rooms.open(request_of("a"), Station())
    (room,) = rooms._rooms.values()
    assert 7 * MB - room.arena.page_bytes < room.arena.pages * room.arena.page_bytes <= 7 * MB
    assert gauge.measured == []
    monkeypatch.setattr(model, "page_bytes", 100)
    with pytest.raises(ResourceError, match="more than the 65536 that there are for all videos"):
        MemoryRooms(model).open(request_of("b"), Station())


def test_ranks_of_different_memory_refuse_a_stream_or_none(tiny_t2v):
    """The first one has the most memory and keeps the most for decoders; both go by the least of each number."""
    one, other = run_ranks(open_on_ranks, tiny_t2v, RULE, ranks=2)
    assert one == other
    _, _, first, all_of_them, returns = one
    assert all_of_them == first + 2 > 4
    assert not returns
