"""The core's decisions, driven without ranks: every trace is checked against the same set of invariants."""

import itertools
import random
from dataclasses import replace

import pytest

from reelray.proto.errors import EngineError, InputError, SizeError
from reelray.proto.events import Stage
from reelray.proto.memory_rule import MemoryRule, Placement
from reelray.proto.request import RequestId
from reelray.proto.snapshot import SnapshotKind
from reelray.proto.step_plan import StepReport
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.scheduler.rollout import Phase
from tests.support.core_trace import ALONE, FACTS, LANES, PIPES, Trace
from tests.support.requests import make_recipe, make_request, random_request


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 7])
@pytest.mark.parametrize("latent_frames", [1, 2, 5, 6])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("piece", [1, 2, 9])
def test_one_request_runs_each_step_once_and_in_order(chunk, latent_frames, steps, piece):
    trace = Trace(EngineLimits(decode_latent_frames=piece, frame_credit=4))
    trace.submit(make_request("a", latent_frames=latent_frames, recipe=make_recipe(steps=steps, chunk=chunk)))
    trace.run()
    trace.assert_complete("a")
    assert trace.finished == trace.released == ["a"]
    assert trace.core.phase("a") is None


def test_windows_wait_for_the_admission_to_be_reported():
    trace = Trace()
    trace.submit(make_request("a"))
    first, second = trace.step(), trace.step()
    assert first.admits
    assert not first.windows
    assert second.windows
    assert not second.admits


def test_progress_counts_to_the_end():
    core = EngineCore(EngineLimits(decode_latent_frames=2, frame_credit=999))
    core.submit(make_request("a", latent_frames=3, recipe=make_recipe(steps=2, chunk=2)), FACTS)
    seen = []
    while (plan := core.next_step(0.0)) is not None:
        seen += core.report(StepReport(sequence=plan.sequence, generation=plan.generation)).progress
    by_stage = {s: [(p.done, p.total) for p in seen if p.stage is s] for s in Stage}
    assert by_stage[Stage.TEXT] == [(1, 1)]
    assert by_stage[Stage.DENOISE] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert by_stage[Stage.DECODE] == [(5, 9), (9, 9)]


def test_turns_are_taken_after_a_lost_gang_as_before():
    core = EngineCore()
    for name in "ab":
        core.submit(make_request(name, latent_frames=2, recipe=make_recipe(steps=40)), FACTS)

    def moved(count):
        plans = []
        for _ in range(count):
            plans.append(core.next_step(0.0))
            core.report(StepReport(sequence=plans[-1].sequence, generation=plans[-1].generation))
        return [window.request_id for plan in plans for window in plan.windows]

    assert moved(31) == ["a", "b"] * 15
    core.rewind(1)
    assert moved(9) == ["a", "b"] * 4


def test_decode_stops_at_the_credit_and_goes_on_after_an_acknowledgement():
    trace = Trace(EngineLimits(decode_latent_frames=1, frame_credit=9))
    trace.submit(make_request("a", latent_frames=6, recipe=make_recipe(steps=1)))
    while trace.step() is not None:
        pass
    assert sum(d.latent_frames for d in trace.decoded["a"]) == 3  # 1 + 4 + 4 frames
    trace.core.acknowledge("a", 4)
    trace.owed["a"] -= 4
    assert trace.step().decodes
    assert trace.step() is None


def test_a_piece_larger_than_the_credit_goes_out_alone():
    trace = Trace(EngineLimits(decode_latent_frames=8, frame_credit=1))
    trace.submit(make_request("a", latent_frames=5, recipe=make_recipe(steps=1)))
    trace.run()
    assert [d.latent_frames for d in trace.decoded["a"]] == [5]


def test_a_slow_client_holds_back_the_chunks_ahead():
    trace = Trace(EngineLimits(decode_latent_frames=1, frame_credit=1, chunks_ahead=2))
    trace.submit(make_request("a", latent_frames=9, recipe=make_recipe(steps=2, chunk=1)))
    while trace.step() is not None:
        pass
    assert max(w.chunk for w in trace.windows["a"]) == 3  # one decoded, two waiting, one more in work
    trace.acknowledge("a")
    trace.run()
    trace.assert_complete("a")


def test_running_requests_take_turns():
    trace = Trace(EngineLimits(frame_credit=999))
    for name in "abc":
        trace.submit(make_request(name, recipe=make_recipe(steps=4)))
    moved = [w.request_id for plan in iter(trace.step, None) for w in plan.windows]
    assert moved == list("abc" * 4)


def test_a_late_request_is_served_at_once():
    trace = Trace()
    trace.submit(make_request("a", recipe=make_recipe(steps=9)))
    for _ in range(4):
        trace.step()
    trace.submit(make_request("b"))
    assert [a.request.request_id for a in trace.step().admits] == ["b"]
    assert trace.step().windows[0].request_id == "b"


def test_requests_beyond_the_bound_wait_in_order():
    trace = Trace(EngineLimits(requests=2, frame_credit=999))
    for name in "abcd":
        trace.submit(make_request(name, recipe=make_recipe(steps=2)))
    trace.run()
    assert trace.finished == list("abcd")
    assert trace.released == list("abcd")


def test_a_report_of_another_step_is_refused():
    core = EngineCore(generation=2)
    core.submit(make_request("a"), FACTS)
    with pytest.raises(EngineError):
        core.report(StepReport(sequence=0, generation=2))
    plan = core.next_step(0.0)
    report = StepReport(sequence=plan.sequence, generation=plan.generation)
    for wrong in (replace(report, sequence=1), replace(report, generation=1)):
        with pytest.raises(EngineError):
            core.report(wrong)
    core.report(report)
    with pytest.raises(EngineError):
        core.report(report)


def test_sizes_and_doubled_ids_are_refused():
    core = EngineCore()
    with pytest.raises(SizeError, match="width 30"):
        core.submit(make_request("a", width=30), FACTS)
    with pytest.raises(SizeError, match="6 frames"):
        core.submit(make_request("a", frames=6), FACTS)
    wrapped = MemoryRule(local=2, placement=Placement.WRAPPED, wrap=2000)
    with pytest.raises(SizeError, match=r"memory\.wrap is 2000"):
        core.submit(make_request("a", recipe=make_recipe(chunk=1, memory=wrapped)), FACTS)
    core.submit(make_request("a"), FACTS)
    with pytest.raises(InputError, match="request a"):
        core.submit(make_request("a"), FACTS)


def test_acknowledging_more_than_was_sent_is_refused():
    core = EngineCore()
    core.submit(make_request("a"), FACTS)
    with pytest.raises(ValueError, match="1; 0 frames"):
        core.acknowledge("a", 1)
    core.acknowledge("gone", 1)


def test_the_age_of_the_step_in_flight_is_known():
    core = EngineCore()
    assert core.in_flight_s(1.0) is None
    core.submit(make_request("a"), FACTS)
    core.next_step(5.0)
    assert core.in_flight_s(7.5) == 2.5


@pytest.mark.parametrize("seed", range(300))
def test_random_traffic_keeps_every_invariant(seed):
    rng = random.Random(seed)
    limits = EngineLimits(
        requests=rng.randint(1, 5),
        frame_credit=rng.randint(1, 12),
        chunks_ahead=rng.randint(1, 3),
        decode_latent_frames=rng.randint(1, 3),
    )
    trace = Trace(limits, layouts=(ALONE, LANES, PIPES)[seed % 3])
    names = [f"r{i}" for i in range(rng.randint(1, 5))]
    waiting = list(names)
    failed = set()
    for _ in range(400):
        action = rng.random()
        if waiting and action < 0.1:
            trace.submit(random_request(rng, waiting.pop()))
        elif action < 0.12:
            trace.cancel(rng.choice(names))
        elif action < 0.3:
            trace.acknowledge(rng.choice(names))
        else:
            fail = {rng.choice(names)} if rng.random() < 0.02 else set()
            victim = rng.choice(names)
            during = (lambda v=victim: trace.cancel(v)) if rng.random() < 0.02 else (lambda: None)
            trace.step(fail, during)
            failed |= fail
    trace.run()
    assert not trace.held
    assert len(trace.released) == len(set(trace.released))
    for name in trace.requests:
        trace.assert_contiguous(name)
        if name in trace.finished:
            trace.assert_complete(name)
        else:
            assert name in trace.ended


def stream(name, *, latent_frames=6):
    recipe = replace(make_recipe(steps=2, chunk=2, guidance=1.0), memory=MemoryRule(local=4))
    return make_request(name, latent_frames=latent_frames, recipe=recipe)


def test_streams_take_turns_chunk_by_chunk_and_others_step_by_step():
    """What a chunk attends is laid out once; its clean pass waits for its frames, and nobody slips in between."""
    trace = Trace(EngineLimits(frame_credit=999))
    for request in (stream("a"), stream("b"), make_request("c", recipe=make_recipe(steps=20))):
        trace.submit(request)
    order = []
    while (plan := trace.step()) is not None:
        order += [(w.request_id, w.chunk if w.request_id != "c" else None) for w in plan.windows]
        trace.acknowledge("c")
    groups = [(key, len(list(found))) for key, found in itertools.groupby(order)]
    assert groups[:6] == [
        (("a", 0), 3),
        (("b", 0), 3),
        (("c", None), 1),
        (("a", 1), 3),
        (("b", 1), 3),
        (("c", None), 1),
    ]
    assert groups[6:] == [(("a", 2), 2), (("b", 2), 2), (("c", None), 18)]


def test_a_stream_whose_client_takes_nothing_lets_others_go_on():
    trace = Trace(EngineLimits(frame_credit=1, chunks_ahead=1))
    for request in (stream("a", latent_frames=12), make_request("c", recipe=make_recipe(steps=20))):
        trace.submit(request)
    while trace.step() is not None:
        trace.acknowledge("c")
    assert trace.finished == ["c"]
    assert trace.core.phase("a") is Phase.RUNNING
    trace.acknowledge("a")
    trace.run()
    assert trace.finished == ["c", "a"]


def test_a_snapshot_is_forgotten_with_the_queued_request_it_was_to_be_of():
    trace = Trace(EngineLimits(requests=1))
    for name in "ab":
        trace.submit(make_request(name, recipe=make_recipe(steps=20)))
    trace.step()
    trace.core.snapshot(RequestId("b"), SnapshotKind.EXACT)
    trace.cancel("b")
    trace.core.submit(make_request("b"), FACTS)
    trace.core.snapshot(RequestId("b"), SnapshotKind.EXACT)
