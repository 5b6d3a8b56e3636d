"""A tiny request by which an engine shows that it works, before others rely on it."""

from reelray.cluster.engine_api import Engine
from reelray.cluster.model_catalog import ModelEntry
from reelray.cluster.render import RenderJob, RenderOptions, plan_job
from reelray.cluster.render_session import checked
from reelray.proto.errors import InputError

SIDE = 64
LONGEST_FRAMES = 33


def warm_up(engine: Engine, job: RenderJob) -> None:
    """Have a video made, and look at nothing but that it is complete.

    Raises:
        ReelrayError: The engine does not work.
    """
    for _ in checked(engine.render(job.request), job.request):
        pass


def tiny_job(entry: ModelEntry, default: RenderJob) -> RenderJob:
    """The smallest video that a model makes: small in time and size, and of one step where it may be.

    Args:
        entry: The model.
        default: What it makes by default; taken where nothing smaller is allowed.
    """
    facts, image = entry.facts, default.request.image
    if image is not None:  # a picture has the size of its video
        return default
    side = max(SIDE, facts.spatial_stride * max(facts.patch[1:]))
    for steps in (1, None):
        for frames in range(1 + facts.temporal_stride, LONGEST_FRAMES + 1, facts.temporal_stride):
            try:
                wish = RenderOptions(prompt="warm up", frames=frames, size=(side, side), steps=steps, seed=0)
                return plan_job(wish, entry)
            except InputError:
                continue
    return default
