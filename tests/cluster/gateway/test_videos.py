"""`Videos.Generate` over a real connection, with an engine that draws."""

import io
import time
from dataclasses import replace

import av
import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from PIL import Image

from reelray.proto.decoder import Decoder
from reelray.proto.errors import EngineError, ResourceError
from reelray.proto.v1 import video_spec_pb2 as wire
from reelray.proto.v1 import videos_pb2, videos_pb2_grpc
from tests.support.fake_engine import FACTS, RECIPE, FakeEngine, draw_frames, fake_entry
from tests.support.gateway import connect, serve
from tests.support.waiting import wait_until


def request(media=wire.MEDIA_RGB24, **video):
    return videos_pb2.GenerateRequest(video=wire.VideoSpec(**{"prompt": "a disc", "seed": 5, **video}), media=media)


def generate(address, wanted, **call):
    with connect(address) as channel:
        return list(videos_pb2_grpc.VideosStub(channel).Generate(wanted, timeout=20, **call))


def refusal(address, wanted):
    """Code, message, reason and whether a retry is hinted at."""
    with pytest.raises(grpc.RpcError) as raised:
        generate(address, wanted)
    details = {}
    for detail in rpc_status.from_call(raised.value).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo):
            message = kind()
            if detail.Unpack(message):
                details[kind.__name__] = message
    assert details["ErrorInfo"].domain == "reelray"
    return raised.value.code(), raised.value.details(), details["ErrorInfo"].reason, "RetryInfo" in details


def media_of(events):
    parts = [event.media for event in events if event.WhichOneof("event") == "media"]
    assert all(len(part.data) <= 1_000_000 for part in parts)
    assert [part.offset for part in parts] == list(np.cumsum([0, *(len(part.data) for part in parts[:-1])]))
    return b"".join(part.data for part in parts)


def test_frames_come_in_order_between_accepted_and_done():
    engine = FakeEngine()
    with serve(engine) as address:
        events = generate(address, request())
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "accepted"
    assert kinds[-1] == "done"
    assert set(kinds[1:-1]) == {"progress", "media"}
    accepted = events[0].accepted.plan
    assert (accepted.model, accepted.model_digest, accepted.seed, accepted.frames) == ("fake", "0123abcd", 5, 17)
    assert (accepted.size.width, accepted.size.height, accepted.fps.numerator) == (96, 64, 16)
    assert (accepted.steps, accepted.guidance) == (4, 3.0)
    assert media_of(events) == draw_frames(engine.requests[0]).tobytes()
    last = events[-1].done
    assert (last.frames, last.forwards, last.device, dict(last.stage_seconds)["denoise"]) == (17, 8, "cpu", 1.0)


def test_large_frames_are_cut_into_small_messages():
    with serve(FakeEngine()) as address:
        events = generate(address, request(size=wire.Size(width=1024, height=768), frames=5))
    assert len(media_of(events)) == 5 * 1024 * 768 * 3


@pytest.mark.parametrize("media", [wire.MEDIA_MP4, wire.MEDIA_UNSPECIFIED])
def test_mp4_plays(media):
    with serve(FakeEngine()) as address:
        data = media_of(generate(address, request(media=media, fps=8)))
    with av.open(io.BytesIO(data)) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 96, 64)
        assert sum(1 for _ in video.decode(stream)) == 17


@pytest.mark.parametrize(
    ("said", "made"),
    [
        (wire.DECODER_UNSPECIFIED, Decoder.TAEHV_STREAM),
        (wire.DECODER_FULL, Decoder.WAN_EXACT_STREAM),
        (wire.DECODER_PREVIEW, Decoder.TAEHV_STREAM),
    ],
)
def test_a_model_that_makes_previews_by_itself_can_be_asked_for_full_pictures(said, made):
    engine = FakeEngine()
    entry = fake_entry(
        recipe=replace(RECIPE, decoder=Decoder.TAEHV_STREAM), facts=replace(FACTS, decoders=tuple(Decoder))
    )
    with serve(engine, entries=[entry]) as address:
        accepted = generate(address, request(decoder=said))[0].accepted.plan
    assert engine.requests[0].recipe.decoder is made
    assert accepted.decoder == (wire.DECODER_PREVIEW if made.is_preview else wire.DECODER_FULL)


def test_everything_said_reaches_the_engine():
    engine = FakeEngine()
    said = {
        "negative_prompt": "fog",
        "frames": 9,
        "size": wire.Size(width=64, height=48),
        "seed": 2**62,
        "steps": 2,
        "guidance": 1.5,
        "fps": 12.5,
        "model": "fake",
    }
    with serve(engine) as address:
        first = generate(address, request(**said))[0].accepted
    accepted = first.plan
    made = engine.requests[0]
    assert (made.prompt, made.negative_prompt, made.frames, made.seed) == ("a disc", "fog", 9, 2**62)
    assert (made.width, made.height, made.recipe.schedule.steps, made.recipe.guidance.scale) == (64, 48, 2, 1.5)
    assert (accepted.fps.numerator, accepted.fps.denominator, first.request_id) == (25, 2, made.request_id)


WRONG = [
    (request(frames=18), grpc.StatusCode.INVALID_ARGUMENT, "invalid_size", "18 frames"),
    (request(prompt=" "), grpc.StatusCode.INVALID_ARGUMENT, "invalid_prompt", "empty"),
    (request(seconds=float("nan")), grpc.StatusCode.INVALID_ARGUMENT, "invalid_input", "seconds"),
    (request(fps=-1), grpc.StatusCode.INVALID_ARGUMENT, "invalid_input", "fps is -1"),
    (request(seed=2**63), grpc.StatusCode.INVALID_ARGUMENT, "invalid_input", "seed"),
    (request(media=7), grpc.StatusCode.INVALID_ARGUMENT, "invalid_input", "MEDIA_MP4"),
    (request(decoder=9), grpc.StatusCode.INVALID_ARGUMENT, "invalid_input", "DECODER_FULL"),
    (request(decoder=wire.DECODER_PREVIEW), grpc.StatusCode.UNIMPLEMENTED, "unsupported", "no previews on this server"),
    (request(model="nope"), grpc.StatusCode.NOT_FOUND, "unknown_model", "models here: fake"),
    (
        request(changes=[wire.PromptChange(seconds=1, prompt="x")]),
        *(grpc.StatusCode.UNIMPLEMENTED, "unsupported", "whole clips"),
    ),
    (
        request(conditions=[wire.Condition(kind=wire.Condition.AUDIO, inline=b"RIFF")]),
        *(grpc.StatusCode.UNIMPLEMENTED, "unsupported", "model 'fake' takes no condition AUDIO"),
    ),
    (
        request(conditions=[wire.Condition(kind=44)]),
        *(grpc.StatusCode.UNIMPLEMENTED, "unsupported", "of kind 44"),
    ),
    (
        request(conditions=[wire.Condition(kind=wire.Condition.FIRST_FRAME, inline=b"no picture")]),
        *(grpc.StatusCode.UNIMPLEMENTED, "unsupported", "takes no condition FIRST_FRAME; it takes none"),
    ),
    (request(size=wire.Size(width=16384, height=16)), grpc.StatusCode.INVALID_ARGUMENT, "invalid_size", "8192"),
    (request(size=wire.Size(width=8192, height=8192)), grpc.StatusCode.INVALID_ARGUMENT, "invalid_size", "4096x4096"),
    (request(seconds=1e300), grpc.StatusCode.INVALID_ARGUMENT, "invalid_size", "a day of video"),
    (request(model="m" * 20_000), grpc.StatusCode.NOT_FOUND, "unknown_model", "is not served here"),
]


@pytest.mark.parametrize(("wanted", "code", "reason", "text"), WRONG, ids=lambda value: getattr(value, "name", ""))
def test_wrong_input_is_refused_precisely(wanted, code, reason, text):
    engine = FakeEngine()
    with serve(engine) as address:
        found = refusal(address, wanted)
    assert found[0] is code
    assert found[2:] == (reason, False)
    assert text in found[1]
    assert "/models" not in found[1]
    assert not engine.requests


def test_a_first_frame_reaches_models_that_take_one():
    engine = FakeEngine()
    entry = fake_entry(recipe=replace(RECIPE, task="i2v"), facts=replace(FACTS, task="i2v"))
    kept = io.BytesIO()
    Image.new("RGB", (96, 64), (250, 10, 30)).save(kept, format="PNG")
    condition = wire.Condition(kind=wire.Condition.FIRST_FRAME, inline=kept.getvalue())
    with serve(engine, entries=[entry]) as address:
        generate(address, request(conditions=[condition]))
        found = refusal(address, request())
        large = io.BytesIO()
        Image.new("P", (7000, 7000)).save(large, format="PNG")
        wrong = [
            b"no picture",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            large.getvalue(),
            b"x" * 1_600_000,
        ]
        refusals = [
            refusal(address, request(conditions=[wire.Condition(kind=wire.Condition.FIRST_FRAME, inline=data)]))
            for data in wrong
        ]
    assert engine.requests[0].image == bytes((250, 10, 30)) * (96 * 64)
    assert len(engine.requests) == 1
    assert found[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert {code for code, *_ in refusals} == {grpc.StatusCode.INVALID_ARGUMENT}
    texts = [
        "of 10 bytes: the file is no picture",
        "no picture that can be decoded (PNG",
        "7000x7000 pixels",
        "1600000 bytes",
    ]
    assert all(text in found[1] for text, found in zip(texts, refusals, strict=True))


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (EngineError("the engine was lost"), grpc.StatusCode.UNAVAILABLE, "engine_lost"),
        (ResourceError("no room"), grpc.StatusCode.RESOURCE_EXHAUSTED, "out_of_resources"),
    ],
)
def test_what_may_help_later_carries_a_retry_hint(error, code, reason):
    with serve(FakeEngine(error=error, fail_at_frame=8)) as address:
        found = refusal(address, request())
    assert found == (code, error.message, reason, True)


def test_a_retry_hint_says_when():
    from reelray.cluster.gateway.statuses import status_of
    from reelray.proto.errors import QuotaError

    for ids, delay_ms in (({"retry_after_ms": "2500"}, 2500), ({}, 1000)):
        trailing = dict(status_of(QuotaError("used up", ids=ids)).trailing_metadata)
        status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
        hint = error_details_pb2.RetryInfo()
        assert status.details[1].Unpack(hint)
        assert hint.retry_delay.ToMilliseconds() == delay_ms


def test_an_unexpected_error_tells_nothing_of_the_inside():
    with serve(FakeEngine(error=KeyError("secret"))) as address:
        with pytest.raises(grpc.RpcError) as raised:
            generate(address, request())
        assert raised.value.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in raised.value.details()
        info = error_details_pb2.ErrorInfo()
        assert rpc_status.from_call(raised.value).details[0].Unpack(info)
        assert info.metadata["request"].startswith("r-")
        assert "Traceback" not in raised.value.details()


def test_who_leaves_stops_the_engine_and_others_go_on():
    engine = FakeEngine(frame_delay_s=0.05)
    with serve(engine) as address, connect(address) as channel:
        stub = videos_pb2_grpc.VideosStub(channel)
        call = stub.Generate(request(frames=401))
        assert next(call).WhichOneof("event") == "accepted"
        next(event for event in call if event.WhichOneof("event") == "media")
        call.cancel()
        wait_until(lambda: engine.cancelled == 1)
        assert len(list(stub.Generate(request(frames=5)))) > 3
        assert engine.cancelled == 1


def test_a_deadline_stops_the_engine():
    engine = FakeEngine(frame_delay_s=0.05)
    with serve(engine) as address, connect(address) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            list(videos_pb2_grpc.VideosStub(channel).Generate(request(frames=4001), timeout=5))
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: engine.cancelled == 1)


def test_leaving_an_engine_that_is_lost_is_no_error():
    from reelray.cluster.gateway.making import Making
    from reelray.cluster.render import RenderOptions, plan_job

    class Gone:
        def __iter__(self):
            return self

        def __next__(self):
            raise EngineError("gone")

        close = __next__

    class Lost(FakeEngine):
        def render(self, _request):
            return Gone()

    making = Making(Lost(), plan_job(RenderOptions(prompt="x"), fake_entry()), wire.MEDIA_RGB24)
    with pytest.raises(EngineError):
        list(making)
    making.leave()


class CountingEngine(FakeEngine):
    """Counts the bytes that were taken from it."""

    taken = 0

    def _events(self, request):
        for event in super()._events(request):
            self.taken += len(getattr(event, "data", b""))
            yield event


def test_who_does_not_read_holds_the_engine_back():
    engine, total = CountingEngine(), 241 * 512 * 384 * 3
    with serve(engine) as address, connect(address) as channel:
        wanted = request(frames=241, size=wire.Size(width=512, height=384))
        call = videos_pb2_grpc.VideosStub(channel).Generate(wanted)
        next(event for event in call if event.WhichOneof("event") == "media")
        before = -1
        while engine.taken != before:
            before = engine.taken
            time.sleep(0.5)
        assert engine.taken <= 16e6 < total / 5
        assert sum(len(event.media.data) for event in call) > total - 16e6
