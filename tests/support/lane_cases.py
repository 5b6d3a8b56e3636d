"""Four ranks of one world serve requests on lanes; every rank asks a core of its own, and all cores decide alike.

They are fresh processes, so everything they need is imported here.
"""

import io
from dataclasses import replace
from functools import partial

import torch
from torch import distributed as dist

from reelray.cluster.model_catalog import PACKAGED
from reelray.proto.layout import Layout, Place
from reelray.proto.memory_rule import Commit, MemoryRule
from reelray.proto.recipe import Solver
from reelray.proto.step_plan import Admit, DecodeStep, Move, StepPlan, WindowStep
from reelray.proto.storage import Storage
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.frame_box import keep_frames
from reelray.workers.engine.held_request import HeldRequest
from reelray.workers.engine.merge_reports import merge_reports
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.regroup import make_regrouper
from reelray.workers.engine.station import make_stations
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.parallel.mesh import Mesh
from tests.support.fake_model import FakeModel
from tests.support.requests import make_recipe, make_request

OPEN = partial(open_checkpoint, PACKAGED / "sprites", device="cpu")
FOUR, PAIRS, SINGLES = Layout(ulysses=4), Layout(replica=2, ulysses=2), Layout(replica=4)
CFG = Layout(cfg=2, ulysses=2)
RING = Layout(ring=2, ulysses=2)
LIMITS = EngineLimits(frame_credit=999, decode_latent_frames=1)
PROMPTS = ("a red circle moves left", "a blue square", "two green triangles", "a white star moves down")


def a_request(number, *, steps=3, chunk=None, guidance=3.0, size=(80, 48), latent_frames=3):
    recipe = replace(make_recipe(steps=steps, guidance=guidance, chunk=chunk, solver=Solver.UNIPC), text_tokens=512)
    # 3 x 5 tokens of 6 latent rows: neither divides by four
    width, height = size
    name, prompt = "abcd"[number], PROMPTS[number]
    return make_request(
        name, prompt=prompt, seed=number, latent_frames=latent_frames, recipe=recipe, width=width, height=height
    )


# what is submitted or cancelled before which plan
SCENARIOS = {
    "four at once": ((FOUR, PAIRS, SINGLES), {0: [a_request(number) for number in range(4)]}),
    # With guidance 3 so small a picture moves in 0.16 % of its values when one rank's noise moves by a last bit.
    "one joins": (
        (FOUR, PAIRS, SINGLES),
        {0: [a_request(0, steps=5, chunk=1, guidance=1.0)], 8: [a_request(1, steps=1, chunk=2)]},
    ),
    "one is cancelled": (
        (FOUR, PAIRS, SINGLES),
        {0: [a_request(number, chunk=1) for number in range(3)], 4: ["b"], 7: ["c"]},
    ),
    "other guidance follows": (
        (CFG, FOUR, Layout(replica=2, cfg=2), SINGLES),
        {0: [a_request(0, chunk=1)], 2: [a_request(1)], 30: [a_request(2, guidance=1.0)]},
    ),
    # Two latent rows: too few for four ranks to share. With guidance 3 so small a picture moves in 0.07 % of its values
    # when one rank's noise moves by a last bit.
    "a flat picture": (
        (FOUR, PAIRS, SINGLES),
        {
            0: [a_request(0, steps=3, chunk=1, size=(64, 16), guidance=1.0)],
            5: [a_request(1, size=(64, 16), guidance=1.0)],
        },
    ),
}


UNSHARED = {
    0: [make_request("a", recipe=make_recipe(steps=9, chunk=2, solver=Solver.UNIPC), negative_prompt="dull")],
    5: [make_request("b", recipe=make_recipe(steps=2), negative_prompt="dull")],
}


def requests_of(name):
    return [entry for entries in SCENARIOS[name][1].values() for entry in entries if not isinstance(entry, str)]


def run_world():
    """All scenarios, and what can be said of the gang."""
    model = OPEN()
    layouts = (FOUR, PAIRS, SINGLES, CFG, RING, Layout(replica=2, cfg=2))
    mesh = Mesh.create(layouts, "cpu", timeout_s=100)
    stations, regrouper = make_stations(model, mesh, layouts), make_regrouper(model, mesh)
    start = partial(Rank, model, stations=stations, regrouper=regrouper)
    made = []
    new_group, dist.new_group = dist.new_group, lambda *args, **rest: made.append(args) or new_group(*args, **rest)
    groups = [mesh.groups]
    found = {name: serve(start(), *scenario) for name, scenario in SCENARIOS.items()}
    found["states"] = carry_around(start())
    found["memories"] = {storage: carry_memory(start(), storage) for storage in Storage}
    fake = FakeModel()  # its pictures cannot be shared: the first rank of a lane decodes
    other = Rank(fake, stations=make_stations(fake, mesh, layouts), regrouper=make_regrouper(fake, mesh))
    found["unshared"] = serve(other, (CFG, Layout(replica=2, cfg=2)), UNSHARED)
    return found | {"groups": [*groups, mesh.groups], "made": made}


def serve(rank, layouts, script):
    """Run one scenario to its end; returns clips, plans and what this rank did in each."""
    core, clips, plans = EngineCore(LIMITS, layouts=layouts), {}, []
    sequence, last = 0, max(script)
    while True:
        for entry in script.get(sequence, ()):
            if isinstance(entry, str):
                assert core.cancel(entry)
            else:
                core.submit(entry, rank.describe().facts)
        plan = core.next_step(0.0)
        if plan is None and sequence > last:
            return {"clips": clips, "plans": plans}
        sequence += 1
        if plan is None:
            continue
        report, did = execute(rank, plan)
        core.report(report)
        assert not report.failures, report.failures
        plans.append({"plan": plan, "did": did, "moved": report.moved_bytes, "costs": report.costs})
        for frames in report.frames:
            clips.setdefault(frames.request_id, []).append(torch.frombuffer(bytearray(frames.data), dtype=torch.uint8))


def execute(rank, plan):
    """Carry out a plan on this rank; returns all their report, and what this one moved and decoded with whom."""
    did, kept = [], (HeldRequest.move, HeldRequest.decode)

    def watch(kind, action):
        def noted(held, *step, **named):
            sharing = getattr(held._model, "_sharding" if kind == "moves" else "_pictures", None)
            group = getattr(sharing, "_group", None) or getattr(getattr(sharing, "_lane", None), "sequence", None)
            branches = getattr(held._branches, "_group", None) if kind == "moves" else None
            sharers = {*(group.ranks if group else ()), *(branches.ranks if branches else ()), dist.get_rank()}
            did.append((kind, held.request.request_id, len(sharers)))
            return action(held, *step, **named)

        return noted

    HeldRequest.move, HeldRequest.decode = watch("moves", kept[0]), watch("decodes", kept[1])
    try:
        own = keep_frames(rank.execute(plan))
    finally:
        HeldRequest.move, HeldRequest.decode = kept
    reports = [None] * dist.get_world_size()
    dist.all_gather_object(reports, own)
    return merge_reports(reports), did


def carry_around(rank):
    """Bring one request, half denoised and half decoded, to every lane; returns its state on each."""
    request = a_request(0, steps=2, chunk=2, latent_frames=5)
    name, states, holds, sequence = request.request_id, [], [], 0
    window = partial(WindowStep, request_id=name, latent_frames=2)

    def run(layout, **parts):
        nonlocal sequence
        report, _ = execute(rank, StepPlan(sequence=sequence, generation=0, layout=layout, **parts))
        sequence += 1
        assert not report.failures, report.failures
        return [commit.parts for commit in report.commits]

    run(FOUR, admits=(Admit(request=request),))
    for chunk in (0, 1):
        for step in range(2):
            run(FOUR, windows=(window(chunk=chunk, first_latent_frame=2 * chunk, step=step, last=step == 1),))
    run(FOUR, decodes=(DecodeStep(request_id=name, first_latent_frame=0, latent_frames=2, last=False),))
    run(FOUR, decodes=(DecodeStep(request_id=name, first_latent_frame=2, latent_frames=1, last=False),))
    run(FOUR, windows=(window(chunk=2, first_latent_frame=4, latent_frames=1, step=0, last=False),))
    place = Place(layout=FOUR)
    for layout, lane in ((FOUR, 0), (PAIRS, 1), (SINGLES, 0), (SINGLES, 3), (CFG, 0), (PAIRS, 0), (FOUR, 0)):
        target = Place(layout=layout, lane=lane)
        moves = (Move(request_id=name, source=place, target=target),) if target != place else ()
        ((parts,), place) = run(layout, moves=moves, commits=(name,)), target
        held = rank._held[name]
        holds.append((target, bool(held.flight.numbers), held._decode_state is not None))
        states.append({part: torch.load(io.BytesIO(data), weights_only=True) for part, data in parts.items()})
    moved = _own_slots(rank, name)
    run(FOUR, releases=(name,), admits=(Admit(request=request, resume=parts),))
    return {"states": states, "holds": holds, "here": [moved, _own_slots(rank, name)]}


def carry_memory(rank, storage):
    """Bring what a stream remembers to every lane; returns what this rank keeps on each, and the forwards it took."""
    rule = MemoryRule(local=5, sink=1, commit=Commit.LAST_STEP, storage=storage)
    request = a_request(0, steps=1, chunk=2, latent_frames=7)
    request = replace(request, recipe=replace(request.recipe, memory=rule))
    name, sequence, found, forwards = request.request_id, 0, [], []
    denoise = rank._model.denoise
    rank._model.page_bytes = 1 << 28
    rank._model.denoise = lambda *args, **named: forwards.append(0) or denoise(*args, **named)

    def run(layout, **parts):
        nonlocal sequence
        report, _ = execute(rank, StepPlan(sequence=sequence, generation=0, layout=layout, **parts))
        sequence += 1
        assert not report.failures, report.failures
        return report.moved_bytes

    run(FOUR, admits=(Admit(request=request),))
    for chunk in (0, 1):
        at = {"chunk": chunk, "first_latent_frame": 2 * chunk, "latent_frames": 2}
        run(FOUR, windows=(WindowStep(request_id=name, step=0, last=True, commits=True, **at),))
    place, moved = Place(layout=FOUR), 0
    for layout, lane in ((FOUR, 0), (PAIRS, 1), (SINGLES, 0), (RING, 0), (SINGLES, 3), (CFG, 0), (FOUR, 0)):
        target, before = Place(layout=layout, lane=lane), len(forwards)
        if target != place:
            moved = run(layout, moves=(Move(request_id=name, source=place, target=target),))
        memory, place = rank._held[name].forwards.memory, target
        kept = None if memory is None else (memory.first_head, memory.write(), len(memory.history))
        found.append({"place": place, "kept": kept, "forwards": len(forwards) - before, "moved": moved})
    run(FOUR, windows=(WindowStep(request_id=name, chunk=2, first_latent_frame=4, latent_frames=2, step=0, last=True),))
    run(FOUR, releases=(name,))
    rank._model.denoise, rank._model.page_bytes = denoise, None
    return found


def _own_slots(rank, name):
    return [slot.clone() for slot in rank._held[name]._decode_state.slots]
