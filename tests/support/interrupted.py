"""Drives ranks of which the first is lost in the middle of a request."""

from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.rank import Rank


def interrupted(model, request, *, after):
    """The video, made by two ranks one after the other."""
    core, video, rank = EngineCore(EngineLimits(commit_s=0.5)), b"", Rank(model)
    core.submit(request, model.facts)
    done, generation = 0, 0
    while (plan := core.next_step(float(done))) is not None:
        report = rank.execute(plan)
        core.report(report)
        done += 1
        for frames in report.frames:
            video += frames.data
            core.acknowledge(request.request_id, frames.count)
        if done == after:
            generation += 1
            core.rewind(generation, [0])
            rank = Rank(model, generation=generation)
    return video
