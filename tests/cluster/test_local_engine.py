"""Leader and rank together, through the in-process engine."""

import threading

import pytest

from reelray.cluster.local_engine import LocalEngine
from reelray.proto.errors import CancelledError, EngineError, InputError, ReelrayError, ResourceError, SizeError
from reelray.proto.events import Done, Frames, Progress, Stage
from reelray.scheduler.limits import EngineLimits
from tests.support.fake_model import FakeModel
from tests.support.plain_loop import render_plainly
from tests.support.requests import make_recipe, make_request


def video(events):
    return b"".join(event.data for event in events if isinstance(event, Frames))


def test_a_render_streams_progress_then_frames_then_the_summary():
    request = make_request("a", latent_frames=5, recipe=make_recipe(steps=3, chunk=2))
    with LocalEngine.of_model(FakeModel(), load_s=1.5) as engine:
        events = list(engine.render(request))
    assert video(events) == render_plainly(FakeModel(), request)
    progress = [(e.stage, e.done, e.total) for e in events if isinstance(e, Progress)]
    assert progress[:2] == [(Stage.TEXT, 0, 1), (Stage.TEXT, 1, 1)]
    assert [p[1:] for p in progress if p[0] is Stage.DENOISE] == [(i, 9) for i in range(1, 10)]
    assert [p[1:] for p in progress if p[0] is Stage.DECODE][-1] == (17, 17)
    assert isinstance(events[-1], Done)
    summary = events[-1].summary
    assert (summary.steps, summary.forwards, summary.frames) == (9, 18, 17)
    assert (summary.model, summary.model_digest, summary.device, summary.dtype) == ("fake", "fa4e", "cpu", "float32")
    assert set(summary.stage_s) == {"load", "text", "denoise", "decode"}
    assert summary.stage_s["load"] == 1.5
    assert summary.peak_bytes > 0


def test_requests_from_several_threads_give_the_bytes_they_give_alone():
    requests = [make_request(f"r{i}", seed=i, recipe=make_recipe(steps=2 + i, chunk=1 + i)) for i in range(4)]
    videos = {}
    with LocalEngine.of_model(FakeModel(step_s=0.001), limits=EngineLimits(requests=3, frame_credit=4)) as engine:

        def client(request):
            videos[request.request_id] = video(engine.render(request))

        threads = [threading.Thread(target=client, args=(request,)) for request in requests]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for request in requests:
        assert videos[request.request_id] == render_plainly(FakeModel(), request)


def test_a_client_that_stops_taking_stops_the_decoder():
    model = FakeModel()
    request = make_request("a", latent_frames=40, recipe=make_recipe(steps=1, chunk=1))
    limits = EngineLimits(frame_credit=9, decode_latent_frames=1, chunks_ahead=2)
    with LocalEngine.of_model(model, limits=limits) as engine:
        stream = engine.render(request)
        other = make_request("b", latent_frames=30, recipe=make_recipe(steps=5))
        assert video(engine.render(other))  # a whole other render goes by meanwhile
        assert model.decoded_latent_frames - 30 == 3
        assert model.calls.count("prompt a") <= 6
        assert video(stream) == render_plainly(FakeModel(), request)


def test_a_cancel_ends_the_stream_at_once_and_frees_the_engine():
    model = FakeModel()
    with LocalEngine.of_model(model, limits=EngineLimits(requests=1)) as engine:
        stream = engine.render(make_request("a", recipe=make_recipe(steps=500)))
        for event in stream:
            if isinstance(event, Progress) and event.stage is Stage.DENOISE:
                break
        model.gate.clear()  # the step in flight hangs, the client is told all the same
        assert engine.cancel("a")
        with pytest.raises(CancelledError, match="cancelled"):
            list(stream)
        model.gate.set()
        assert not engine.cancel("a")
        assert video(engine.render(make_request("b")))
    assert model.calls.count("prompt a") < 500


def test_leaving_the_block_cancels():
    model = FakeModel()
    with LocalEngine.of_model(model) as engine:
        with engine.render(make_request("a", recipe=make_recipe(steps=500))) as stream:
            next(stream)
        assert list(stream) == []
        assert not engine.cancel("a")


def test_a_failing_request_raises_for_its_client_alone():
    with LocalEngine.of_model(FakeModel()) as engine:
        good, bad = engine.render(make_request("good")), engine.render(make_request("bad", prompt="boom"))
        with pytest.raises(ReelrayError, match="the transformer broke"):
            list(bad)
        assert video(good)
        assert video(engine.render(make_request("bad")))


def test_a_wrong_size_is_refused_at_once():
    with LocalEngine.of_model(FakeModel()) as engine:
        with pytest.raises(SizeError):
            engine.render(make_request("a", width=33))
        engine.render(make_request("a", recipe=make_recipe(steps=500)))
        with pytest.raises(InputError):
            engine.render(make_request("a"))


def test_opening_measures_the_load():
    with LocalEngine.open(FakeModel) as engine:
        assert engine.description.load_s > 0
        assert list(engine.render(make_request("a")))[-1].summary.stage_s["load"] == engine.description.load_s


def test_a_checkpoint_too_large_for_memory_is_a_resource_error():
    def load():
        raise MemoryError

    with pytest.raises(ResourceError, match="out of memory while the checkpoint was opened"):
        LocalEngine.open(load)


def test_closing_ends_what_still_runs():
    engine = LocalEngine.of_model(FakeModel())
    stream = engine.render(make_request("a", recipe=make_recipe(steps=500)))
    engine.close()
    with pytest.raises(CancelledError, match="the engine was closed"):
        list(stream)
    with pytest.raises(EngineError, match="takes no requests"):
        engine.render(make_request("b"))


def test_losing_the_ranks_ends_every_request():
    class Channel:
        def issue(self, _plan):
            raise EngineError("rank 1 is gone")

    from reelray.scheduler.engine_core import EngineCore
    from reelray.workers.engine.leader import Leader
    from reelray.workers.engine.rank import Rank

    with Leader(EngineCore(), Channel(), Rank(FakeModel()).describe()) as leader:
        with pytest.raises(EngineError, match="rank 1 is gone"):
            list(leader.submit(make_request("a")))
        with pytest.raises(EngineError, match="rank 1 is gone"):
            leader.submit(make_request("b"))


def test_taking_in_bulk_gives_the_same_events():
    request = make_request("a", latent_frames=5)
    with LocalEngine.of_model(FakeModel(), limits=EngineLimits(frame_credit=4, decode_latent_frames=1)) as engine:
        stream = engine.render(request)
        items = []
        while batch := stream.take(timeout_s=60):
            items += batch
        assert isinstance(items[-1], Done)
        assert video(items) == render_plainly(FakeModel(), request)
        assert stream.take() == []


def test_taking_gives_up_when_the_time_is_over():
    model = FakeModel()
    model.gate.clear()
    with LocalEngine.of_model(model) as engine:
        stream = engine.render(make_request("a"))
        while stream.take(timeout_s=0.05):
            pass
        model.gate.set()
        assert video(stream)
