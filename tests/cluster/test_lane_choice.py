"""Layouts of an engine: named, or found by the plan."""

from functools import partial

import pytest

from reelray.cluster.checkpoint_loader import CheckpointLoader
from reelray.cluster.lane_choice import AUTO, find_layouts, limits_for
from reelray.cluster.local_engine import LocalEngine
from reelray.cluster.model_catalog import PACKAGED
from reelray.proto.errors import InputError, UnsupportedError
from reelray.proto.layout import Layout
from reelray.proto.residency import Blocks, Residency
from tests.support.fake_model import FakeModel

SPRITES = CheckpointLoader(path=PACKAGED / "sprites", device="cpu")
PAIR = Layout(replica=2)


def test_layouts_that_are_named_are_taken():
    assert find_layouts(FakeModel, None, (), ranks=4) == (Layout(),)
    assert find_layouts(FakeModel, Layout(cfg=2), (PAIR,), ranks=0) == (Layout(cfg=2), PAIR)


def test_the_plan_finds_all_or_those_beside_the_first():
    found = find_layouts(SPRITES, None, AUTO, ranks=4)
    assert {layout.ranks for layout in found} == {4}
    assert found[0].replica == 1
    assert found[-1] == Layout(replica=4)
    beside = find_layouts(SPRITES, Layout(ring=4), AUTO, ranks=0)
    assert beside[0] == Layout(ring=4)
    assert set(beside[1:]) == set(found) - {Layout(ring=4)}
    assert find_layouts(SPRITES, None, AUTO, ranks=0) == (Layout(),)


def test_what_cannot_be_found_is_told():
    with pytest.raises(InputError, match="the plan knows nothing of this checkpoint"):
        find_layouts(partial(FakeModel), None, AUTO, ranks=2)
    with pytest.raises(UnsupportedError, match="splits the layers"):
        find_layouts(SPRITES, Layout(pipe=2), AUTO, ranks=2)
    shared = CheckpointLoader(path=SPRITES.path, device="cpu", residency=Residency(blocks=Blocks.SHARDED))
    with pytest.raises(InputError, match="sharded weights belong to one layout"):
        find_layouts(shared, None, AUTO, ranks=2)


def test_an_engine_takes_as_many_requests_as_it_has_lanes():
    assert limits_for([Layout(ulysses=2), PAIR]).requests == 4
    assert limits_for([Layout(ulysses=8), Layout(replica=8)]).requests == 8
    assert limits_for([PAIR]).commit_s


def test_a_local_engine_on_one_rank_has_no_lanes():
    with LocalEngine.open_lanes(SPRITES, ranks=1) as engine:
        assert engine.description.layout == Layout()
