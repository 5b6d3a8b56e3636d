"""Store, coordinator, server and supervisor are killed, and the disk is full, at half of two renders that are followed.

Nobody starts anything anew by hand but the supervisor, whom nobody supervises.
"""

import resource

import pytest

from tests.support.fault_house import Following, House, check_each_unit_once
from tests.support.tiny_stream import write_tiny_stream
from tests.support.waiting import wait_until

CLIP = {"frames": 9, "size": (32, 32), "steps": 24, "seed": 5}
STREAM = {"frames": 129, "size": (32, 32), "seed": 6}


@pytest.fixture(scope="module")
def house(tiny_t2v, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    stream = write_tiny_stream(tiny_t2v, folder / "tiny-stream")
    with House(folder, "--engine", "local", "--model", tiny_t2v, "--model", stream) as house:
        yield house


def both(house):
    return Following(house, "tiny-t2v", **CLIP), Following(house, "tiny-stream", **STREAM)


@pytest.fixture(scope="module")
def undisturbed(house):
    return [render.finish() for render in both(house)]


def kill_store(house, _renders):
    house.store().kill()


def kill_coordinator(house, _renders):
    times = house.times("the coordinator was lost; starting it again")
    (found,) = house.processes("reelray.cluster.coordinator")
    found.kill()
    house.wait_for("the coordinator was lost; starting it again", times + 1)


def kill_server(house, _renders):
    times = house.times("starting it again")
    house.server().kill()
    house.wait_for("starting it again", times + 1)


def kill_serve(house, _renders):
    house.server()
    house.process.kill()
    house.process.wait()
    house.check_empty()
    house.start()


def fill_disk(house, renders):
    server = house.server()
    unlimited = server.rlimit(resource.RLIMIT_FSIZE)
    server.rlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
    house.open_gates()
    wait_until(lambda: all(render.states.count("running") > 1 for render in renders))  # they failed, and try again
    assert all(house.times(f"^job {render.id}: .*cannot be read or written") for render in renders)
    server.rlimit(resource.RLIMIT_FSIZE, unlimited)


@pytest.mark.parametrize(
    "fault", [kill_store, kill_coordinator, kill_server, fill_disk, kill_serve], ids=lambda fault: fault.__name__
)
def test_renders_go_on_and_their_followers_too(house, undisturbed, fault):
    with house.gate(tiny_t2v=18, tiny_stream=24):
        renders = [render.wait_at_gate() for render in both(house)]
        fault(house, renders)
    for render, wanted in zip(renders, undisturbed, strict=True):
        assert render.finish() == wanted
        check_each_unit_once(render)
        assert render.states.count("running") > 1 or fault in {kill_store, kill_coordinator}
        assert render.states.count("running") == 1 or fault is not kill_coordinator  # who decides is not who works
