"""`reelray.render` gives frames; the options are those of the command line."""

import numpy as np
import pytest

import reelray
from reelray.cluster import python_api
from reelray.proto.errors import EngineError, InputError, PromptError, SizeError
from reelray.proto.events import Stage
from tests.support.fake_engine import FakeEngine, draw_frames, fake_services, write_models


@pytest.fixture
def engine(tmp_path, monkeypatch):
    engine = FakeEngine()
    services = fake_services(engine, write_models(tmp_path / "models"))
    monkeypatch.setattr(python_api, "default_services", lambda: services)
    return engine


def test_render_returns_frames_and_summary(engine):
    seen = []
    video = reelray.render("a red circle", seed=7, size=(64, 32), frames=9, on_progress=seen.append)
    assert video.frames.shape == (9, 32, 64, 3)
    assert video.frames.dtype == np.uint8
    assert np.array_equal(video.frames, draw_frames(engine.requests[0]))
    assert (video.summary.seed, video.fps) == (7, 16.0)
    assert {progress.stage for progress in seen} == set(Stage) - {Stage.REGROUP, Stage.REMEMBER}
    assert engine.closed == 1


def test_stream_yields_single_frames_in_order(engine):
    frames = list(reelray.render_stream("a red circle", seed=7))
    assert np.array_equal(np.stack(frames), draw_frames(engine.requests[0]))
    assert all(frame.flags.writeable for frame in frames)
    assert engine.closed == 1


def test_stream_checks_at_once_and_starts_late(engine):
    with pytest.raises(SizeError, match="nearest size"):
        reelray.render_stream("a red circle", size="100x100")
    stream = reelray.render_stream("a red circle")
    assert not engine.requests
    next(stream)
    stream.close()
    assert (engine.cancelled, engine.closed) == (1, 1)


def test_errors_are_those_of_the_tree(engine):
    with pytest.raises(PromptError):
        reelray.render("")
    engine.error = EngineError("rank 0 was lost")
    with pytest.raises(EngineError, match="rank 0 was lost"):
        reelray.render("a red circle")
    assert engine.closed == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"prompt": None}, "prompt is None; it must be text"),
        ({"prompt": 5}, "prompt is 5; it must be text"),
        ({"frames": "17"}, "frames is '17'; it must be a whole number"),
        ({"frames": 17.0}, "frames is 17.0; it must be a whole number"),
        ({"steps": True}, "steps is True; it must be a whole number"),
        ({"seconds": "soon"}, "seconds is 'soon'; write seconds greater than 0, such as 6, 6.5s or 1:30"),
        ({"seconds": True}, "seconds is True; write seconds greater than 0, such as 6, 6.5s or 1:30"),
        ({"on_progress": 5}, "on_progress is 5; it must be a function that takes a Progress"),
        ({"guidance": "strong"}, "guidance is 'strong'; it must be a number"),
        ({"size": (64,)}, "size is (64,); it must be text such as '832x480', or two whole numbers"),
        ({"size": 64}, "size is 64; it must be text such as '832x480', or two whole numbers"),
        ({"engine": "rays"}, "engine is 'rays'; it must be one of ray, local"),
        ({"device": "tpu"}, "device is 'tpu'; it must be one of auto, cpu, cuda"),
    ],
)
def test_values_of_another_kind_are_named(engine, arguments, told):
    with pytest.raises(InputError) as caught:
        reelray.render(**{"prompt": "a red circle", **arguments})
    assert caught.value.message == told
    assert not engine.requests


def test_numbers_of_numpy_and_paths_are_taken(engine, tmp_path):
    model = tmp_path / "models" / "fake"
    reelray.render("a red circle", model=model, frames=np.int64(9), fps=np.float32(8), size=np.array([64, 32]).tolist())
    request = engine.requests[0]
    assert (type(request.frames), request.frames, request.width) == (int, 9, 64)


@pytest.mark.usefixtures("engine")
def test_unknown_options_are_named():
    with pytest.raises(TypeError, match="colour"):
        reelray.render("a red circle", colour="red")


def test_names_of_the_package():
    assert {"render", "render_stream", "Rendered", "__version__"} <= set(dir(reelray))
    with pytest.raises(AttributeError, match="has no attribute 'rendr'"):
        _ = reelray.rendr
