"""Layouts that are refused, and why."""

from dataclasses import replace

import pytest

from reelray.proto.errors import InputError, SizeError
from reelray.proto.layout import Layout
from reelray.scheduler.plan.legality import check_layout, list_lanes
from tests.support.planning import make_job, make_machine


@pytest.mark.parametrize(
    ("layout", "guided", "machine", "kind", "reason"),
    [
        ("ulysses=8", True, make_machine(4), InputError, "layout ulysses=8 needs 8 GPUs; the machine has 4"),
        ("replica=3,cfg=2", True, make_machine(4), InputError, "needs 6 GPUs"),
        ("cfg=2", False, make_machine(4), InputError, "splits the branches of guidance; this job runs without"),
        ("ulysses=13", True, make_machine(16), InputError, "splits the heads over 13 ranks; the model has 12"),
        ("pipe=31", True, make_machine(32), InputError, "splits the layers over 31 ranks; the model has 30"),
        ("ring=2", True, make_machine(2, link="none"), InputError, "nothing links them; use replica"),
    ],
)
def test_illegal_layouts_have_a_reason(layout, guided, machine, kind, reason):
    job = make_job("1.3b", "480p", guided=guided)
    with pytest.raises(kind, match=reason):
        check_layout(Layout.parse(layout), job, machine)


def test_more_ranks_than_tokens_are_refused():
    job = make_job("1.3b", "480p", frames=1)
    small = replace(job, width=32, height=16)
    with pytest.raises(SizeError, match="splits the tokens over 3 ranks; a window has 2"):
        check_layout(Layout(ring=3), small, make_machine(4))
    check_layout(Layout(ring=2), small, make_machine(4))


def test_heads_need_not_divide():
    check_layout(Layout(ulysses=5), make_job("1.3b", "480p"), make_machine(8))


def test_copies_need_no_link():
    check_layout(Layout(replica=2), make_job(), make_machine(2, link="none"))


def test_every_legal_layout_is_listed_once():
    found = [str(layout) for layout in list_lanes(make_job(), make_machine(4))]
    assert len(found) == len(set(found)) == 17
    assert {"ulysses=1", "cfg=2", "cfg=2,ulysses=2", "ring=2,ulysses=2", "pipe=4", "ulysses=3"} <= set(found)
    assert all("cfg" not in str(layout) for layout in list_lanes(make_job(guided=False), make_machine(4)))
    assert [str(layout) for layout in list_lanes(make_job(), make_machine(4, link="none"))] == ["ulysses=1"]
    assert [str(layout) for layout in list_lanes(make_job(), make_machine(1))] == ["ulysses=1"]


@pytest.mark.parametrize("gpus", [0, -1, 65])
def test_a_machine_has_gpus(gpus):
    with pytest.raises(InputError, match=f"gpus is {gpus}; a plan is made for 1 to 64"):
        make_machine(gpus)
