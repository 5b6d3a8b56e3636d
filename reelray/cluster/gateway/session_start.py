"""The beginning of a session: what its client asks for, checked and begun on its engine."""

import threading
from dataclasses import replace

from reelray.cluster.gateway.converse_orders import check_prompts
from reelray.cluster.gateway.media import FORMATS
from reelray.cluster.gateway.served_models import ServedModel
from reelray.cluster.gateway.video_reading import read_video
from reelray.cluster.render import RenderJob, plan_job
from reelray.cluster.stream_job import as_live
from reelray.cluster.stream_session import StreamSession
from reelray.proto.errors import EngineError, InputError, ResourceError
from reelray.proto.v1 import converse_pb2 as wire
from reelray.proto.v1 import video_spec_pb2


def check_start(start: wire.ConverseRequest.Start, longest_keep_s: float) -> None:
    """Refuse what no session has.

    Raises:
        InputError: It would be kept for too long, or sends what no client knows.
    """
    if start.keep_s > longest_keep_s:
        raise InputError(f"keep_s is {start.keep_s}; a session is kept for at most {longest_keep_s:g} s")
    if start.media not in FORMATS:
        raise InputError(f"media is {start.media}; it must be one of {', '.join(video_spec_pb2.Media.keys())}")


def plan_stream(start: wire.ConverseRequest.Start, video: video_spec_pb2.VideoSpec, model: ServedModel) -> RenderJob:
    """What is to be made.

    Raises:
        InputError: It cannot be made by this model.
    """
    pace = start.pace_fps if start.HasField("pace_fps") else None
    job = plan_job(replace(read_video(video, model.entry), stream=True, pace=pace), model.entry)
    check_prompts(job.request)
    if not start.settled:
        job = as_live(job, rounds=start.video.WhichOneof("length") != "frames")
    return job


def open_stream(job: RenderJob, model: ServedModel) -> StreamSession:
    """Begin on the engine; waits for it.

    Raises:
        EngineError: It is lost, and looked after.
        ResourceError: It has no room.
    """
    try:
        return StreamSession(model.engine, job)
    except (EngineError, ResourceError):
        threading.Thread(target=model.look_after, name=f"look after {model.entry.name}", daemon=True).start()
        raise
