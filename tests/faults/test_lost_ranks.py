"""Ranks of an engine are killed or frozen at half of a render that is followed: while they denoise, decode, encode."""

import signal

import pytest

from tests.support.fault_house import Following, House, check_each_unit_once
from tests.support.waiting import wait_until

CLIP = {"frames": 33, "size": (32, 32), "steps": 16, "seed": 5}


@pytest.fixture(scope="module")
def house(tiny_t2v, tmp_path_factory):
    options = ("--engine", "local", "--layout", "cfg=2", "--decode-ranks", "1", "--model", tiny_t2v)
    with House(tmp_path_factory.mktemp("ranks"), *options, TEXT_S="1") as house:
        yield house


@pytest.fixture(scope="module")
def wanted(house):
    return Following(house, "tiny-t2v", **CLIP).finish()


def finish_undisturbed_by_it(house, render, wanted, victim):
    house.server()
    assert render.finish() == wanted
    check_each_unit_once(render)
    assert render.states.count("running") == 1  # the engine itself mended it
    assert not victim.is_running()
    assert house.times("lost") == 0


@pytest.mark.parametrize(
    ("kind", "how"),
    [("denoise", signal.SIGKILL), ("decode", signal.SIGKILL), ("denoise", signal.SIGSTOP)],
    ids=["a rank killed", "a decode rank killed", "a rank frozen"],
)
def test_a_lost_rank_costs_time_and_nothing_else(house, wanted, kind, how):
    with house.gate(tiny_t2v=8):
        render = Following(house, "tiny-t2v", **CLIP).wait_at_gate()
        victim = house.who_does(kind)[-1]
        victim.send_signal(how)
    finish_undisturbed_by_it(house, render, wanted, victim)


def test_a_text_encoder_killed_while_it_encodes(house, wanted):
    render = Following(house, "tiny-t2v", **CLIP, prompt="a green circle")
    victim = wait_until(lambda: house.who_does("text"))[0]
    victim.kill()
    other = Following(house, "tiny-t2v", **CLIP, prompt="a green circle").finish()
    finish_undisturbed_by_it(house, render, other, victim)
    assert other != wanted
