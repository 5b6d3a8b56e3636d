"""A worker with its engine is killed in the middle; another goes on from its last commit, on real checkpoints."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reelray.cluster.checkpoint_loader import describe_model
from reelray.cluster.model_catalog import PACKAGED
from reelray.cluster.renders.growing_media import find_media, read_media
from reelray.cluster.store.job import JobState
from tests.support.render_jobs import (
    BY_UNIT,
    finish_job,
    plan,
    records_of,
    served,
    submit,
    undisturbed,
    video_of,
    worker_of,
)

ROOT = Path(__file__).parents[3]


@contextlib.contextmanager
def process(address, *words):
    words = [address.url, address.prefix, *map(str, words)]
    command = [sys.executable, "-m", "tests.support.render_worker", *words]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def words_of(child, pattern):
    for line in child.stdout:
        if found := re.match(pattern, line):
            return found
    raise AssertionError("the worker ended")


@pytest.fixture(
    params=[
        ("sprites-causal", {"frames": 57, "size": "64x64"}, 12, "seg"),
        ("tiny_t2v", {"frames": 9, "size": "32x32", "steps": 12}, 6, "snap"),
    ]
)
def video(request):
    kind, wish, *half = request.param
    checkpoint = PACKAGED / kind
    return (checkpoint if checkpoint.exists() else request.getfixturevalue(kind)), wish, half


def test_another_worker_goes_on_with_the_same_bytes(play, address, artifacts, tmp_path, video):
    checkpoint, wish, half = video
    entry = describe_model(checkpoint)
    job = plan(entry, prompt="a red circle", **wish)
    with served(entry) as (model, engines), process(address, tmp_path / "renders", checkpoint, *half) as child:
        expected = undisturbed(job, model)
        ref = play(lambda store: submit(store, artifacts, job, model))
        at = int(words_of(child, r"stands at (\d+)")[1])

        async def look(store):
            return await records_of(store, ref), await find_media(store, ref), await video_of(store, artifacts, ref)

        records, media, begun = play(look)
        assert not media.complete
        assert expected.startswith(begun)
        assert (len(begun) > 0) == (checkpoint.name == "sprites-causal")
        os.kill(child.pid, signal.SIGKILL)

        async def go_on(store):
            done = await finish_job(store, worker_of(store, artifacts, model, rule=BY_UNIT), ref)
            later = await read_media(store, artifacts, ref, offset=len(begun), most_bytes=1 << 30)
            return done, later, await video_of(store, artifacts, ref)

        done, later, data = play(go_on)
    assert done.state is JobState.DONE, done.error
    assert done.claims == 2
    assert data == expected
    assert begun + later.data == expected
    made, committed = engines[0].steps[-1], records[-1].steps
    assert committed > 0
    assert made == list(range(committed + 1, made[-1] + 1))
    assert at < made[-1]
