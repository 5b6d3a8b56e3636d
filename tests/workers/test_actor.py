"""Ranks as Ray actors: their places, their end, and the end of their leader."""

import os
import signal
from functools import partial

import psutil
import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from reelray.cluster.checkpoint_loader import CheckpointLoader
from reelray.cluster.embedded_ray import EmbeddedRay
from reelray.cluster.model_catalog import PACKAGED
from reelray.cluster.remote_engine import RemoteEngine
from reelray.proto.errors import EngineError, UnsupportedError, WeightsError
from reelray.proto.events import Frames, Progress, Stage
from reelray.proto.layout import Layout
from reelray.proto.patching import Patching
from reelray.workers.actor import RANK_CPUS, RayLauncher
from reelray.workers.engine.gang import Gang, GangSpec
from tests.support.commands import is_there
from tests.support.fake_model import FakeModel
from tests.support.plain_loop import render_plainly
from tests.support.requests import make_recipe, make_request
from tests.support.waiting import wait_until

CFG = Layout(cfg=2)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with EmbeddedRay(cpus=3, preload=("torch",)) as ray:
        yield ray


def test_places_that_are_not_there_are_named():
    with pytest.raises(EngineError, match=r"^4 GPUs were asked for, the cluster has 0 \(waited 0.1 s\)$"):
        RayLauncher(4, on_gpus=True, place_s=0.1)
    with pytest.raises(EngineError, match="room for 400 ranks was asked for on one machine; the cluster has 3 CPUs"):
        RayLauncher(400, on_gpus=False, place_s=0.1)


def test_ranks_on_another_machine_than_their_leader_are_refused(monkeypatch):
    monkeypatch.setattr("reelray.workers.actor._own_node", lambda: "elsewhere")
    with pytest.raises(EngineError, match="another machine than their leader; a gang lies on one machine"):
        RayLauncher(2, on_gpus=False)
    assert created_groups() == {}


def test_successors_take_the_places_of_killed_and_frozen_ranks():
    launcher = RayLauncher(2, on_gpus=False)
    gang = Gang(launcher, GangSpec(load=FakeModel, layout=CFG, start_s=90.0))
    gang.start()
    old = [psutil.Process(pid) for pid in gang.pids()]
    places = created_groups()
    assert [(len(group["bundles"]), group["strategy"]) for group in places.values()] == [(2, "STRICT_PACK")]
    old[0].send_signal(signal.SIGSTOP)
    old[1].kill()
    assert gang.rebuild() == 1
    assert not any(map(is_there, old))
    assert created_groups().keys() == places.keys()
    new = [psutil.Process(pid) for pid in gang.pids()]
    new[1].kill()
    assert gang.rebuild() == 2
    assert gang.pids()[0] == new[0].pid  # it keeps its weights
    new.append(psutil.Process(gang.pids()[1]))
    gang.close()
    launcher.close()
    assert not any(map(is_there, new))
    assert created_groups() == {}


def test_an_engine_in_a_group_of_others_makes_none_and_leaves_it_there():
    group = placement_group([{"CPU": 1}, {"CPU": RANK_CPUS}, {"CPU": RANK_CPUS}], strategy="STRICT_PACK")
    with RemoteEngine(FakeModel, layout=CFG, group=group) as engine:
        assert list(created_groups()) == [group.id.hex()]
        assert engine.description.layout == CFG
        wait_until(lambda: free_cpus(group) == [0, 0, 0])
        request = make_request("g", recipe=make_recipe(steps=3), negative_prompt="dull")
        video = b"".join(event.data for event in engine.render(request) if isinstance(event, Frames))
        assert video == render_plainly(FakeModel(), request)
    assert list(created_groups()) == [group.id.hex()]
    remove_placement_group(group)


def test_a_checkpoint_that_does_not_open_is_reported():
    with pytest.raises(WeightsError, match="shard 2 is missing"):
        RemoteEngine(partial(fail, WeightsError("shard 2 is missing")), layout=CFG)


def test_lanes_under_ray_and_ranks_end_with_their_leader():
    with RemoteEngine(partial(FakeModel, step_s=0.01), layout=CFG, others=(Layout(replica=2),)) as engine:
        assert engine.description.layout == CFG
        short = [make_request(name, recipe=make_recipe(steps=9), negative_prompt="dull") for name in "bc"]
        both = [engine.render(request) for request in short]  # each on a lane of its own
        for request, stream in zip(short, both, strict=True):
            clip = b"".join(event.data for event in stream if isinstance(event, Frames))
            assert clip == render_plainly(FakeModel(), request)
        recipe = make_recipe(steps=1_000_000, guidance=3.0)
        stream = engine.render(make_request("a", recipe=recipe, negative_prompt="dull"))
        next(event for event in stream if isinstance(event, Progress) and event.stage is Stage.DENOISE)
        ranks, leaders = named("ray::RankActor"), named("ray::EngineActor")
        assert (len(ranks), len(leaders)) == (2, 1)
        os.kill(leaders[0].pid, signal.SIGKILL)
        _, left = psutil.wait_procs(ranks, timeout=30)
        assert left == []
        with pytest.raises(EngineError, match="ended unexpectedly"):
            list(stream)


def test_layouts_of_the_plan_and_patches_without_a_place_under_ray():
    load = CheckpointLoader(path=PACKAGED / "sprites", device="cpu")
    with RemoteEngine(load, layout=CFG, others="auto") as engine:
        assert engine.description.layout == CFG
        size = {"width": 96, "height": 64, "latent_frames": 2}
        with pytest.raises(UnsupportedError, match="layout cfg=2 does not split the layers"):
            engine.render(make_request("a", patching=Patching(patches=2), **size))
        both = [engine.render(make_request(name, **size)) for name in "bc"]  # a layout of two lanes is among them
        summaries = [list(stream)[-1].summary for stream in both]
    assert [summary.frames for summary in summaries] == [5, 5]


def created_groups():
    return {name: group for name, group in ray.util.placement_group_table().items() if group["state"] == "CREATED"}


def free_cpus(group):
    """What is free in each place of a group."""
    free = ray.available_resources()
    return [free.get(f"CPU_group_{place}_{group.id.hex()}", 0) for place in range(group.bundle_count)]


def named(title):
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[0].startswith(title):
                found.append(process)
        except (psutil.NoSuchProcess, IndexError):
            continue
    return found


def fail(error):
    raise error
