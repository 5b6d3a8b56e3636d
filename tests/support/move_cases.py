"""Streams on two ranks of which one runs out of memory when it is to make room for pages.

Every rank asks a core of its own, and all cores decide alike.
"""

from dataclasses import dataclass, field

import torch
from torch import distributed as dist

from reelray.proto.layout import Layout
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.frame_box import keep_frames
from reelray.workers.engine.merge_reports import merge_reports
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.regroup import make_regrouper
from reelray.workers.engine.station import make_stations
from reelray.workers.memory import room
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.parallel.mesh import Mesh

TOGETHER, APART = Layout(ulysses=2), Layout(replica=2)


@dataclass
class Served:
    """What came of the streams."""

    videos: dict = field(default_factory=dict)
    failures: list = field(default_factory=list)
    waited: list = field(default_factory=list)  # by plan
    moves: list = field(default_factory=list)


def lack_memory(arena, times):
    """An arena's maker that runs out of memory so often, and makes arenas afterwards."""
    left = [times]

    def make(**wanted):
        left[0] -= 1
        if left[0] >= 0:
            raise torch.OutOfMemoryError("none is left")
        return arena(**wanted)

    return make


def serve_short_of_memory(rank, folder, script, broken):
    """Serve requests by plan number, two ranks together or each by itself, one of which cannot make its second room.

    Args:
        rank: This rank.
        folder: Of the checkpoint.
        script: Requests by the plan before which they come.
        broken: The rank that runs out of memory, once.
    """
    layouts = TOGETHER, APART
    model = open_checkpoint(folder, device="cpu")
    mesh = Mesh.create(layouts, rank.device, timeout_s=30)
    mine = Rank(model, stations=make_stations(model, mesh, layouts), regrouper=make_regrouper(model, mesh))
    core, found, arena = EngineCore(EngineLimits(), layouts=layouts), Served(), room.Arena
    for number in range(400):
        for request in script.get(number, ()):
            core.submit(request, model.facts)
        plan = core.next_step(0.0)
        if plan is None:
            break
        if plan.moves and not found.moves and rank.rank == broken:
            room.Arena = lack_memory(arena, 1)
        reports = [None] * rank.ranks
        dist.all_gather_object(reports, keep_frames(mine.execute(plan)))
        report = merge_reports(reports)
        core.report(report)
        found.failures += report.failures
        found.waited += [(number, name) for name in report.waiting]
        found.moves += [(number, move.request_id, move.target.layout) for move in plan.moves]
        for frames in report.frames:
            found.videos[frames.request_id] = found.videos.get(frames.request_id, b"") + frames.data
            core.acknowledge(frames.request_id, frames.count)
    room.Arena = arena
    return found
