"""Each preset of a stream against its published recipe: steps, what is attended, where it stands, what is committed."""

from functools import partial

import pytest

from reelray.proto.errors import ManifestError
from reelray.proto.recipe import Commit, PromptSwitch, Solver
from reelray.workers.memory.regions import Drop, Frame, Regions
from reelray.workers.recipes.manifest import parse_manifest
from reelray.workers.recipes.presets import find_preset_for, presets
from reelray.workers.samplers.sigmas import plan_noise_levels
from tests.support.memory_oracle import latest, moving_sink, running_means

FOUR = [1000.0, 937.5, 833.3333, 625.0]
TWO, ONE = [1000.0, 833.3333], [1000.0]
SLANTED = ([1000, 933, 733, 357], [1000, 933, 357], [1000, 357.14])
# Latent frames of a chunk; steps of the first three chunks; what is attended; what is committed.
PUBLISHED = {
    "self-forcing-1.3b": (3, (FOUR, FOUR, FOUR), partial(latest, 21), Commit.CLEAN),
    "self-forcing-framewise-1.3b": (1, (FOUR, FOUR, FOUR), partial(latest, 21), Commit.CLEAN),
    "causal-forcing-1.3b": (3, (FOUR, FOUR, FOUR), partial(latest, 21), Commit.CLEAN),
    "causal-forcing-2step-1.3b": (1, (FOUR, TWO, TWO), partial(latest, 21), Commit.CLEAN),
    "causal-forcing-1step-1.3b": (1, (FOUR, ONE, ONE), partial(latest, 21), Commit.CLEAN),
    "longlive-1.3b": (3, (FOUR, FOUR, FOUR), partial(latest, 9, sink=3), Commit.CLEAN),
    "diagdistill-1.3b": (3, SLANTED, partial(latest, 9, sink=3), Commit.LAST_STEP),
    "reward-forcing-1.3b": (3, (FOUR, FOUR, FOUR), partial(moving_sink, 6, sink=3, kept=0.999), Commit.CLEAN),
    "infinity-rope-1.3b": (3, (FOUR, FOUR, FOUR), partial(latest, 5, sink=1, relative=True), Commit.CLEAN),
    "memrope-1.3b": (3, (FOUR, FOUR, FOUR), partial(running_means, 7, sink=3, shares=(0.01, 0.1)), Commit.CLEAN),
}


def streaming():
    """Those of which chunks follow each other and leave one forward; `test_joint_presets.py` has the others."""
    found = {name: recipe for name, recipe in presets().items() if recipe.memory is not None}
    return {
        name: recipe
        for name, recipe in found.items()
        if recipe.chunking.stagger is None and recipe.memory.commit is not Commit.EVERY_STEP
    }


def test_every_streaming_preset_is_held_here():
    assert set(streaming()) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_steps_are_the_published_ones(name):
    chunk, steps, _, commit = PUBLISHED[name]
    recipe = presets()[name]
    assert recipe.chunking.latent_frames == chunk
    assert recipe.schedule.solver is Solver.X0_RENOISE
    assert not recipe.guidance.needs_unconditional
    assert recipe.memory.commit is commit
    assert recipe.memory.commit_timestep == 0
    for number, wanted in enumerate((*steps, steps[-1])):
        assert list(plan_noise_levels(recipe.schedule.of_chunk(number)).timesteps) == pytest.approx(wanted, abs=1e-3)


def test_a_change_of_the_prompt_is_the_published_one():
    found = {name: (recipe.memory.switch, recipe.memory.switch_frames) for name, recipe in streaming().items()}
    recached = {"longlive-1.3b", "diagdistill-1.3b"}
    assert {name for name, rule in found.items() if rule == (PromptSwitch.RECACHE, 12)} == recached
    assert {name for name, rule in found.items() if rule == (PromptSwitch.FLUSH, 2)} == {"infinity-rope-1.3b"}
    others = set(found) - recached - {"infinity-rope-1.3b"}
    assert all(found[name][0] is PromptSwitch.KEEP for name in others)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_attended_is_what_was_published(name):
    """Forty chunks: weights of frames and temporal positions, one by one."""
    chunk, _, make_rule, _ = PUBLISHED[name]
    rule, regions = make_rule(chunk=chunk), Regions(rule=presets()[name].memory, chunk=chunk)
    held = {}
    for first in range(0, 40 * chunk, chunk):
        wanted, (places, own) = rule(first, chunk), regions.positions(first, chunk)
        assert list(own) == wanted.own
        assert list(places) == [place for place, _ in wanted.entries]
        assert len(regions.attended) == len(wanted.entries)
        for entry, (_, weights) in zip(regions.attended, wanted.entries, strict=True):
            assert held[entry] == pytest.approx(weights)
        held |= {Frame(index=index): {index: 1.0} for index in range(first, first + chunk)}
        for change in regions.commit(first, chunk):
            if isinstance(change, Drop):
                del held[change.entry]
                continue
            new = held[change.new]
            old = new if change.old is None else held.pop(change.old)
            frames = {*old, *new}
            held[change.into] = {
                frame: change.kept * old.get(frame, 0) + (1 - change.kept) * new.get(frame, 0) for frame in frames
            }
        assert len(held) <= regions.most


def test_folders_find_their_own_preset(tmp_path):
    config = '{"_class_name": "CausalWanModel", "dim": 1536, "num_layers": 30}'
    for folder, name in (
        ("LongLive-1.3B", "longlive-1.3b"),
        ("causal-forcing-2step", "causal-forcing-2step-1.3b"),
        ("Causal_Forcing", "causal-forcing-1.3b"),
        ("self_forcing_framewise", "self-forcing-framewise-1.3b"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(config)
        assert find_preset_for(tmp_path / folder).name == name


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        ({"local": 2}, "memory.local is 2; a chunk's own frames count too, and are 3"),
        ({"local": 9, "sinks": 3}, "field `memory.sinks` is not known; did you mean `sink`"),
        ({"local": 9, "commit": "never"}, "field `memory.commit` is 'never'; allowed: clean_pass, last_step"),
        ({"local": 9, "sink": 3, "sink_kind": "moving"}, "field `memory`: placement is absolute"),
        ({"sink": 3}, "field `memory.local` is missing"),
    ],
)
def test_wrong_memories_are_named(memory, said):
    with pytest.raises(ManifestError, match=said.replace("(", r"\(")):
        parse_manifest({"name": "x", "chunking": {"latent_frames": 3}, "memory": memory}, source="manifest.yaml")


def test_a_memory_needs_chunks():
    with pytest.raises(ManifestError, match=r"memory needs chunking\.latent_frames"):
        parse_manifest({"name": "x", "memory": {"local": 9}}, source="manifest.yaml")
