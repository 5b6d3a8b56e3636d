"""Dataclasses as JSON and back."""

import json

import pytest

from reelray.cluster.plain_json import from_plain, to_plain
from reelray.proto.layout import Layout
from reelray.proto.memory_rule import Commit, MemoryRule, Placement, Sink
from reelray.proto.patching import Patching
from reelray.proto.recipe import Recipe
from reelray.proto.request import PromptChange, RenderRequest
from reelray.workers.recipes.presets import presets
from tests.support.requests import make_request

RULE = MemoryRule(
    local=4, sink=2, sink_kind=Sink.MOVING, means=(0.1, 1), placement=Placement.RELATIVE, commit=Commit.LAST_STEP
)
REQUESTS = [
    make_request("a"),
    make_request("b", image=bytes(range(256)) * 6, patching=Patching(patches=4), live=True),
    make_request("c", prompt='grün "x"', changes=(PromptChange(latent_frame=3, prompt="y\nz"),)),
]


@pytest.mark.parametrize("request_", REQUESTS, ids="abc")
def test_a_request_comes_back_equal(request_):
    assert from_plain(RenderRequest, json.loads(json.dumps(to_plain(request_)))) == request_


@pytest.mark.parametrize("name", presets())
def test_every_recipe_comes_back_equal(name):
    recipe = presets()[name]
    assert from_plain(Recipe, json.loads(json.dumps(to_plain(recipe)))) == recipe


def test_a_rule_comes_back_equal():
    found = from_plain(MemoryRule, json.loads(json.dumps(to_plain(RULE))))
    assert found == RULE
    assert isinstance(found.commit, Commit)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": "7"}, "RenderRequest.seed is '7', which is no int"),
        ({"seed": True}, "which is no int"),
        ({"prompt": None}, "which is no str"),
        ({"changes": {}}, "which is no list"),
        ({"changes": [{"latent_frame": 0, "prompt": "x", "cut": False}]}, "latent_frame is 0"),
        ({"changes": [{"latent_frame": 2}]}, r"changes\[0\] has the fields \['latent_frame'\]"),
        ({"recipe": 3}, "which is no Recipe"),
        ({"later": 3}, "has the fields"),
        ({"image": "%%"}, "base64"),
    ],
)
def test_what_is_no_request_is_refused(change, told):
    with pytest.raises(ValueError, match=told):
        from_plain(RenderRequest, {**json.loads(json.dumps(to_plain(REQUESTS[0]))), **change})


def test_enumerations_keep_to_their_values():
    with pytest.raises(ValueError, match="nothing"):
        from_plain(MemoryRule, {**to_plain(RULE), "commit": "nothing"})
    assert from_plain(Layout, to_plain(Layout(ulysses=2))) == Layout(ulysses=2)
