"""A model of clips hands longer videos to the model that its recipe names."""

from dataclasses import replace

import pytest

from reelray.cluster.render import RenderOptions
from reelray.cluster.render_plan import Place, plan_on
from reelray.proto.chunking import Chunking
from reelray.proto.errors import InputError, SizeError, UnsupportedError
from reelray.proto.memory_rule import MemoryRule, Placement
from tests.support.fake_engine import FACTS, RECIPE, FakeEngine, fake_entry, fake_services, write_models

CLIPS = replace(RECIPE, name="clips", longer="long")
LONG = replace(
    RECIPE, name="long", chunking=Chunking(latent_frames=3), memory=MemoryRule(local=6, placement=Placement.RELATIVE)
)


@pytest.fixture
def chosen(tmp_path):
    """The name of the model that makes a video, and its frames."""

    def choose(*, models=("clips", "long"), model="clips", recipe=CLIPS, facts=FACTS, **options):
        folder = tmp_path / "-".join(models)
        if not folder.exists():
            write_models(folder, *models)
        known = {"clips": recipe, "long": LONG}
        services = fake_services(
            FakeEngine(), folder, entry=lambda path: fake_entry(path=path, recipe=known[path.name], facts=facts)
        )
        place = Place(model=model, device="cpu")
        job, _ = plan_on(RenderOptions(prompt="p", **options), services, place)
        return job.model.name, job.request.frames

    return choose


@pytest.mark.parametrize("options", [{}, {"frames": 17}, {"frames": 5}, {"seconds": 1}])
def test_a_clip_is_made_by_the_model_that_was_asked_for(chosen, options):
    assert chosen(**options)[0] == "clips"


@pytest.mark.parametrize(
    ("options", "frames"),
    [({"frames": 21}, 21), ({"seconds": 60}, 961), ({"stream": True}, 961), ({"frames": 41, "at": [("1s", "q")]}, 41)],
)
def test_what_is_longer_or_a_stream_is_made_by_the_named_one(chosen, options, frames):
    assert chosen(**options) == ("long", frames)


def test_the_frame_rate_counts(chosen):
    assert chosen(seconds=2, fps=8)[0] == "clips"
    assert chosen(seconds=2, fps=16)[0] == "long"


def test_an_endless_model_is_not_bound_by_the_positions_of_the_other(chosen):
    assert chosen(frames=401, facts=replace(FACTS, positions=20))[0] == "long"
    with pytest.raises(SizeError, match="too many"):
        chosen(frames=401, facts=replace(FACTS, positions=20), recipe=replace(CLIPS, longer=""))


def test_the_folder_beside_the_model_is_found_from_elsewhere(chosen, tmp_path):
    assert chosen()[0] == "clips"
    folder = tmp_path / "clips-long" / "clips"
    assert chosen(model=str(folder), models=("long",), seconds=60) == ("long", 961)


def test_a_model_that_names_none_makes_all_itself(chosen):
    assert chosen(frames=401, recipe=replace(CLIPS, longer="")) == ("clips", 401)


@pytest.mark.parametrize("options", [{"seconds": 60}, {"stream": True}])
def test_a_named_model_that_is_not_here_is_said_in_one_line(chosen, options):
    with pytest.raises(UnsupportedError) as caught:
        chosen(models=("clips",), **options)
    said = caught.value.message
    assert "model 'clips' makes clips of at most 17 frames (1.06 s)" in said
    assert "'long', which is not here" in said
    assert "\n" not in said


def test_a_wrong_length_is_said_as_ever(chosen):
    with pytest.raises(InputError, match="seconds is -1"):
        chosen(seconds=-1)
