"""Drives a rank without a leader."""

from reelray.proto.layout import Layout
from reelray.proto.request import RenderRequest
from reelray.scheduler.engine_core import EngineCore
from reelray.scheduler.limits import EngineLimits
from reelray.workers.engine.rank import Rank

ALONE = Layout()


def render_on(rank: Rank, request: RenderRequest, layout: Layout = ALONE) -> bytes:
    """Render a request on a rank, which has whatever ranks share it; returns its bytes."""
    core, video = EngineCore(EngineLimits(), layouts=(layout,)), b""
    core.submit(request, rank.describe().facts)
    while (plan := core.next_step(0.0)) is not None:
        report = rank.execute(plan)
        core.report(report)
        for frames in report.frames:
            video += frames.data
            core.acknowledge(request.request_id, frames.count)
    return video
