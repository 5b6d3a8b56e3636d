"""Streams judged in batches and through the engine: the same streams, and honest numbers."""

import shutil
from concurrent.futures import Future

import numpy as np
import pytest
import torch
import yaml

from examples.train_sprites.evaluate_stream import judge_lasting, judge_switches, list_steps
from examples.train_sprites.stream_batch import StreamBatch
from examples.train_sprites.stream_engine import JUDGED, Watch, run_streams, stream_request
from reelray.cluster.local_engine import LocalEngine
from reelray.proto.events import Frames
from reelray.quality.sprites.detector import Verdict
from reelray.quality.sprites.scene import Scene, Sprite
from reelray.workers.models.registry import open_checkpoint

SCENE = Scene(background="blue", sprites=(Sprite(color="red", shape="circle", motion="left"),))
CAPTION = "a red circle moves left on a blue background"


@pytest.fixture(scope="module")
def folder(tiny_t2v, tmp_path_factory):
    """A tiny model that streams, three latent frames at a time."""
    folder = tmp_path_factory.mktemp("streams") / "tiny-stream"
    shutil.copytree(tiny_t2v, folder)
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    manifest["chunking"] = {"latent_frames": 3}
    manifest["schedule"] = {"solver": "x0_renoise", "timesteps": [1000, 357], "first_chunks": [[1000, 733, 357]]}
    manifest["guidance"] = {"scale": 1.0}
    manifest["memory"] = {"local": 6, "sink": 3, "placement": "relative"}
    manifest["defaults"] = {"width": 48, "height": 32, "frames": 81, "fps": 16}
    manifest["text_tokens"] = 128  # the tiny tokenizer spells the words of captions
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder


class Eye:
    """A judge that keeps what it is shown and finds every second clip right."""

    def __init__(self):
        self.clips = []

    def submit(self, clip, _scene):
        self.clips.append(clip)
        right, verdict = len(self.clips) % 2 == 1, Future()
        verdict.set_result(Verdict(background=True, count=True, color=right, shape=right, motion=right))
        return verdict


def engine_frames(folder, number, seconds):
    request = stream_request(folder, CAPTION, number, seconds)
    with LocalEngine.of_model(open_checkpoint(folder, device="cpu")) as engine:
        data = b"".join(event.data for event in engine.render(request) if isinstance(event, Frames))
    return np.frombuffer(data, np.uint8).reshape(request.frames, 32, 48, 3)


def test_a_batch_shows_what_the_engine_streams(folder):
    """Its first frames exactly, and its last ones, for which the decoder starts late, nearly."""
    batch, wanted = StreamBatch(folder, "cpu"), engine_frames(folder, 1, 12)
    assert wanted.shape[0] == 193
    latents = batch.latents([[CAPTION, CAPTION]], [16])[1:]
    first = batch.frames(latents, 0, 40).astype(int)
    assert first.shape[0] == 157
    assert np.abs(first - wanted[:157]).max() <= 1
    last = batch.frames(latents, 44, 4).astype(int)
    assert last.shape[0] == 16
    assert np.abs(last - wanted[173:189]).max() <= 2


def test_both_ends_are_judged(folder):
    eye, batch = Eye(), StreamBatch(folder, "cpu")
    report = judge_lasting(batch, eye, captions=2, seconds=12, seed=0)
    assert set(report) == {"first_10s", "last_10s"}
    assert report["first_10s"]["color"] == 0.5
    assert [len(clip) for clip in eye.clips] == [157, 157, 160, 160]
    assert list_steps(batch.recipe) == [3, 2, 2, 2]


def test_a_switch_is_judged_from_a_second_after_it_and_by_the_new_prompt(folder, monkeypatch):
    eye, batch, told = Eye(), StreamBatch(folder, "cpu"), []
    latents = batch.latents

    def note(prompts, chunks):
        told.append((prompts, chunks))
        return latents(prompts, chunks)

    monkeypatch.setattr(batch, "latents", note)
    report = judge_switches(batch, eye, captions=2, seed=0)
    (((before, after), chunks),) = told
    assert chunks == [9, 9]
    assert before != after
    assert report["background"] == 1.0
    assert [len(clip) for clip in eye.clips] == [80, 80]
    whole = latents([before, after], chunks)
    pixels = batch.model.decode(whole[:1], batch.model.new_decode_state()).numpy()
    begin = 4 * 27 - 3 + 16
    assert np.abs(pixels[begin : begin + 80].astype(int) - eye.clips[0].astype(int)).max() <= 1


def test_the_engine_is_watched(folder):
    eye = Eye()
    report = run_streams(folder, [(CAPTION, SCENE)], eye, seconds=20, device="cpu")
    assert report["frames"] == 321
    assert [clip.shape for clip in eye.clips] == [(JUDGED, 32, 48, 3)] * 2
    wanted = engine_frames(folder, 0, 20)
    assert np.array_equal(eye.clips[0], wanted[:JUDGED])
    assert np.array_equal(eye.clips[1], wanted[-JUDGED:])
    assert (report["first_10s"]["color"], report["last_10s"]["color"]) == (1.0, 0.0)
    assert report["frames_per_s"] > 0


def test_rates_and_memory_count_once_memory_is_full():
    watch = Watch(started=0.0, on_gpu=False)
    watch.frames, watch.seconds = [9] + [12] * 79, [5.0 + number for number in range(80)]
    # It rises before memory is full, is looked at in the midst of a forward once, and rises by a hundredth at the end.
    watch.memory_bytes = [10**6] * 13 + [10**8] * 16 + [2 * 10**8] + [10**8] * 17 + [101 * 10**6] * 33
    report = watch.report()
    assert report["frames"] == 957
    assert report["first_frame_s"] == 5.0
    assert report["frames_per_s"] == 12.0
    assert report["memory_mb"] == 100.5
    assert report["memory_swing"] == 0.01
    assert report["memory_peak_mb"] == 200.0


def test_a_checkpoint_of_whole_clips_is_refused(tiny_t2v):
    with pytest.raises(ValueError, match="makes whole clips"):
        StreamBatch(tiny_t2v, "cpu")
    assert torch.is_grad_enabled()
