"""A job's spec: the same frames on another machine, strict about everything else."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from reelray.cluster.render import RenderOptions, plan_job
from reelray.cluster.renders.artifact import Artifact
from reelray.cluster.renders.spec import RenderSpec, queue_of, seed_for_key
from reelray.cluster.store.names import check_name
from reelray.proto.errors import InputError, UnsupportedError
from reelray.proto.request import RequestId
from reelray.proto.sparsity_text import parse_sparsity
from tests.support.fake_engine import DIGEST, FACTS, RECIPE, fake_entry

WISH = {"negative": "dull", "seed": 2**62 + 1, "frames": 9, "size": "64x48", "guidance": 2.5, "fps": 23.976, "steps": 3}


def plan(**wish):
    return plan_job(RenderOptions(prompt="a héron lands", **wish), fake_entry())


def picture_of(job):
    size = len(job.request.image)
    return Artifact(tenant="ann", folder="inputs", name="p.rgb", size_bytes=size, sha256="a" * 64)


def test_a_spec_gives_the_planned_job_back_under_another_name():
    job = plan(**WISH)
    text = json.dumps(RenderSpec.of(job, DIGEST).to_json())
    spec = RenderSpec.from_json(json.loads(text))
    assert (spec.digest, spec.media, spec.picture) == (DIGEST, "mp4", None)
    named = replace(job, request=replace(job.request, request_id=RequestId("j-1")))
    assert spec.job(fake_entry(), RequestId("j-1")) == named


def test_sparsity_travels_with_the_spec_unless_a_loss_would_change_it():
    job = plan(**WISH, sparsity="stripes,every=1234,rows=64")
    text = json.dumps(RenderSpec.of(job, DIGEST).to_json())
    found = RenderSpec.from_json(json.loads(text)).job(fake_entry(), job.request.request_id)
    assert found.request.sparsity == parse_sparsity("stripes,every=1234,rows=64")
    with pytest.raises(UnsupportedError, match="take refresh=1"):
        RenderSpec.of(plan(**WISH, sparsity="sub_block,refresh=2"), DIGEST)


def test_equal_wishes_are_equal_specs():
    one, other = (RenderSpec.of(plan(**WISH), DIGEST).to_json() for _ in range(2))
    assert one == other
    assert one != RenderSpec.of(plan(**{**WISH, "seed": 3}), DIGEST).to_json()


def test_a_picture_travels_beside_the_spec():
    facts = replace(FACTS, task="i2v")
    entry = fake_entry(recipe=replace(RECIPE, task="i2v"), facts=facts)
    job = plan_job(RenderOptions(prompt="it moves", size="96x64", image=Image.new("RGB", (96, 64), "red")), entry)
    written = RenderSpec.of(job, DIGEST, picture_of(job)).to_json()
    assert len(json.dumps(written)) < 8000
    spec = RenderSpec.from_json(written)
    assert spec.job(entry, job.request.request_id, job.request.image) == job
    written["picture"]["size_bytes"] -= 1
    with pytest.raises(InputError, match="18431 bytes; 18432 were expected"):
        RenderSpec.from_json(written)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("version", 1, "version 1; this build reads version 2"),
        ("version", None, "version None"),
        ("model", "", "model is ''"),
        ("model", 3, "model is 3"),
        ("digest", None, "digest is None"),
        ("fps", "0", "fps is 0"),
        ("fps", "1/0", "cannot be read"),
        ("fps", 16, "fps is 16"),
        ("media", "avi", "'avi' is not a valid MediaForm"),
        ("picture", {"name": "x"}, "Artifact has the fields"),
        ("request", [], "no RenderRequest"),
        ("request.prompt", 3, "RenderRequest.prompt is 3"),
        ("request.seed", -1, "seed is -1"),
        ("request.width", True, "RenderRequest.width is True"),
        ("request.recipe.schedule.steps", "3", "steps is '3'"),
        ("request.request_id", "r-1", "neither a name nor a picture"),
        ("request.image", "AAAA", "image holds 3 bytes"),
        ("request.extra", 1, "RenderRequest has the fields"),
        ("more", 1, "has the fields"),
    ],
)
def test_anything_else_is_refused_by_name(path, value, told):
    written = json.loads(json.dumps(RenderSpec.of(plan(**WISH), DIGEST).to_json()))
    *way, last = path.split(".")
    place = written
    for name in way:
        place = place[name]
    place[last] = value
    with pytest.raises(InputError) as caught:
        RenderSpec.from_json(written)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_picture_of_another_tenant_cannot_be_smuggled_in():
    written = RenderSpec.of(plan(**WISH), DIGEST).to_json()
    written["picture"] = {"tenant": "../bob", "folder": "inputs", "name": "p", "size_bytes": 1, "sha256": "a" * 64}
    with pytest.raises(InputError, match="tenant is"):
        RenderSpec.from_json(written)


def test_every_model_has_a_queue_of_its_own():
    names = ["Wan2.1-T2V-1.3B", "my model", "my  model", "../x", "x" * 70, "ü"]
    queues = [check_name("queue", queue_of(name)) for name in names]
    assert queues[0] == names[0]
    assert len(set(queues)) == len(names)


def test_a_key_decides_a_seed_that_was_not_named():
    seeds = {seed_for_key(tenant, key) for tenant in ("ann", "bob") for key in ("1", "2")}
    assert len(seeds) == 4
    assert seed_for_key("ann", "1") in seeds
    assert all(0 <= seed < 2**32 for seed in seeds)
