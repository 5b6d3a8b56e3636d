"""Each preset of a stream against its published recipe: steps, what is attended, where it stands, what is committed."""

import random
from dataclasses import replace
from functools import partial

import pytest

from reelray.proto.errors import ManifestError
from reelray.proto.memory_rule import Commit, FirstFrame, PromptSwitch
from reelray.proto.recipe import Solver
from reelray.workers.memory.entries import Banked, Drop, Frame, Pick, Share
from reelray.workers.memory.regions import Regions
from reelray.workers.recipes.manifest import parse_manifest
from reelray.workers.recipes.presets import find_preset_for, presets
from reelray.workers.samplers.sigmas import plan_noise_levels
from tests.support.bank_oracle import PlainBank
from tests.support.memory_oracle import latest, moving_sink, rollouts, running_means, there_and_back

FOUR = [1000.0, 937.5, 833.3333, 625.0]
TWO, ONE = [1000.0, 833.3333], [1000.0]
FIVE, THREE = [*FOUR, 0.0], [1000.0, 757.0, 522.0]
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
    "memflow-1.3b": (3, (FOUR, FOUR, FOUR), partial(latest, 9, sink=3), Commit.CLEAN),  # its bank is held below
    "rolling-sink-1.3b": (3, (FOUR, FOUR, FOUR), partial(there_and_back, 21, early=18), Commit.CLEAN),
    "krea-realtime-14b": (3, (FIVE, FIVE, FIVE), partial(latest, 6, relative=True), Commit.REBUILD),
    "causvid-1.3b": (3, (THREE, THREE, THREE), partial(rollouts, 21, overlap=3), Commit.CLEAN),
}
NOT_FOR_SALE = {"memflow-1.3b", "krea-realtime-14b", "causvid-1.3b"}


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
    recached = {"longlive-1.3b", "diagdistill-1.3b", "memflow-1.3b"}
    assert {name for name, rule in found.items() if rule == (PromptSwitch.RECACHE, 12)} == recached
    assert {name for name, rule in found.items() if rule == (PromptSwitch.FLUSH, 2)} == {"infinity-rope-1.3b"}
    others = set(found) - recached - {"infinity-rope-1.3b", "krea-realtime-14b"}
    assert all(found[name][0] is PromptSwitch.KEEP for name in others)
    krea = streaming()["krea-realtime-14b"].memory
    assert (krea.switch, krea.switch_chunks) == (PromptSwitch.LERP, 4)
    coded = {name for name, recipe in streaming().items() if recipe.memory.first_frame is FirstFrame.CODED_ANEW}
    assert coded == {"krea-realtime-14b", "causvid-1.3b"}
    assert {name for name, recipe in streaming().items() if recipe.memory.cut_position} == {"infinity-rope-1.3b"}
    assert streaming()["infinity-rope-1.3b"].memory.cut_position == 45


def test_weights_that_must_not_be_sold_say_so():
    found = {name: recipe.licence for name, recipe in streaming().items()}
    assert {name for name, licence in found.items() if licence == "CC-BY-NC-SA-4.0"} == NOT_FOR_SALE


def test_the_last_step_can_be_dropped_where_it_is_clean():
    schedule = presets()["krea-realtime-14b"].schedule
    dropped = replace(schedule, drop_last_step=True)
    assert (schedule.length, dropped.length) == (5, 4)
    assert list(plan_noise_levels(dropped.of_chunk(3)).timesteps) == pytest.approx(FOUR, abs=1e-3)
    for wrong in ({"timesteps": (1000.0, 500.0)}, {"timesteps": (0.0,)}, {"first_chunks": ((1000.0,),)}):
        with pytest.raises(ValueError, match="drop_last_step needs timesteps that end in 0"):
            replace(dropped, **wrong)


def test_four_even_steps_are_warped_as_published():
    """Three parts of 1000, cut to whole numbers, in the shifted table."""
    listed = tuple(float(1000 - 1000 * number // 3 - (number in {1, 2})) for number in range(4))
    assert listed == (1000.0, 666.0, 333.0, 0.0)
    schedule = replace(presets()["krea-realtime-14b"].schedule, timesteps=listed)
    wanted = [1000 * 5 * v / (1000 + 4 * v) for v in listed]
    assert list(plan_noise_levels(schedule).timesteps) == pytest.approx(wanted, abs=1e-3)
    assert wanted == pytest.approx([1000, 909, 714, 0], abs=0.5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_attended_is_what_was_published(name):
    """Forty chunks: weights of frames and temporal positions, one by one."""
    chunk, _, make_rule, _ = PUBLISHED[name]
    memory = replace(presets()[name].memory, bank=None)
    rule, regions = make_rule(chunk=chunk), Regions(rule=memory, chunk=chunk)
    held, anew = {}, 0
    for first in range(0, 40 * chunk, chunk):
        if memory.begins_anew(first):
            anew += 1
            for drop in regions.begin_anew():
                del held[drop.entry]
            frames = memory.frames_anew(first, chunk)
            held |= {Frame(index=index): {index: 1.0} for index in frames}
            regions.commit_again(frames)
        wanted, (places, own) = rule(first, chunk), regions.positions(first, chunk)
        assert list(own) == wanted.own
        assert list(places) == [place for place, _ in wanted.entries]
        assert len(regions.attended) == len(wanted.entries)
        for entry, (_, weights) in zip(regions.attended, wanted.entries, strict=True):
            assert held[entry] == pytest.approx(weights)
        if memory.commit is Commit.REBUILD:
            continue
        held |= {Frame(index=index): {index: 1.0} for index in range(first, first + chunk)}
        assert len(held) <= regions.most
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
    assert anew == {Commit.REBUILD: 39}.get(memory.commit, 6 if memory.rollout else 0)


@pytest.mark.parametrize("repeats", [False, True])
def test_every_layer_keeps_what_scores_best_for_it_and_the_newest(repeats):
    """Forty chunks with scores drawn at random; half of the time they tie."""
    memory, layers, rng = presets()["memflow-1.3b"].memory, 4, random.Random(5)
    rule = replace(memory, bank=replace(memory.bank, repeats=repeats))
    plain = [PlainBank(size=3, every=3, chunk=3, repeats=repeats) for _ in range(layers)]
    regions, held, differ = Regions(rule=rule, chunk=3, layers=layers), {}, 0
    for first in range(0, 120, 3):
        scores = [[rng.choice((0.0, 0.5, rng.random())) for _ in range(layers)] for _ in range(3)]
        for layer, bank in enumerate(plain):
            if first:
                bank.offer(first - 3)
            bank.step(lambda place, layer=layer, scores=scores: scores[place][layer])
        for change in regions.bank.take_in(scores) if regions.bank.due else ():
            carry_out(change, held)
        entries, places = regions.attend(first, 3)
        for layer, bank in enumerate(plain):
            frames = [held[entry][layer] for entry in entries]
            local = range(max(3, first - 6), first)
            assert frames == [*range(min(3, first)), *bank.shown(first), *local]
            own = [entry.frames[layer] if isinstance(entry, Banked) else entry.index for entry in entries]
            assert own == frames
        assert places == tuple(held[entry][0] for entry in entries)
        differ += len({tuple(bank.frames) for bank in plain}) > 1
        held |= {Frame(index=index): [index] * layers for index in range(first, first + 3)}
        for change in regions.commit(first, 3):
            carry_out(change, held)
        assert len(held) <= regions.most
    assert differ > 20


def carry_out(change, held):
    """What a memory does with pages, done with numbers of frames, layer by layer."""
    match change:
        case Drop():
            del held[change.entry]
        case Share():
            held[change.into] = held[change.entry]
        case Pick():
            pairs = zip(held[change.one], held[change.other], change.takes_other, strict=True)
            held[change.into] = [other if takes else one for one, other, takes in pairs]


def test_folders_find_their_own_preset(tmp_path):
    config = '{"_class_name": "CausalWanModel", "dim": 1536, "num_layers": 30}'
    (tmp_path / "krea-realtime-14B").mkdir()
    (tmp_path / "krea-realtime-14B/config.json").write_text(
        '{"_class_name": "WanModel", "dim": 5120, "num_layers": 40}'
    )
    assert find_preset_for(tmp_path / "krea-realtime-14B").name == "krea-realtime-14b"
    for folder, name in (
        ("MemFlow", "memflow-1.3b"),
        ("Rolling-Sink", "rolling-sink-1.3b"),
        ("causvid", "causvid-1.3b"),
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
        ({"local": 9, "bank": {"sizes": 3}}, "field `memory.bank.sizes` is not known; did you mean `size`"),
        ({"local": 9, "bank": {"size": 0}}, "field `memory`: bank.size is 0"),
        ({"local": 9, "bank": {"size": 3}, "placement": "relative"}, "placement is relative; a bank takes absolute"),
        (
            {"local": 9, "first_frame": "coded_anew"},
            "first_frame is coded_anew; only a rebuild or a rollout evaluates frames anew",
        ),
        ({"local": 9, "commit": "rebuild"}, "commit is rebuild; it takes placement relative"),
        ({"local": 9, "sink": 3, "sink_kind": "bouncing"}, "sink_kind is bouncing; it takes placement relative"),
        ({"local": 9, "sink_kind": "bouncing", "placement": "relative"}, "it takes a sink, which is 0"),
        ({"local": 9, "rollout": 9, "placement": "relative"}, "overlap is 0, rollout 9 and local 9"),
        ({"local": 9, "rollout": 9, "overlap": 2, "placement": "relative"}, "both must be whole chunks of 3"),
        (
            {"local": 9, "rollout": 9, "overlap": 3, "sink": 1, "placement": "relative"},
            "it takes no means, no bank, no",
        ),
        ({"local": 9, "causal_frames": 1}, "causal_frames is 1; only a rebuild or a rollout"),
        ({"local": 9, "switch": "lerp"}, "switch_chunks is 0; for lerp"),
        ({"local": 9, "cut_position": -1}, "cut_position is -1"),
        ({"local": 9, "sink_kind": "pinned"}, "sink_kind is pinned; it takes a sink, which is 0"),
        ({"local": 9, "sink_kind": "adaptive"}, "sink_kind is adaptive; it takes a sink, which is 0"),
        ({"local": 9, "sink": 3, "sink_kind": "adaptive"}, "frame by frame, and a chunk has 3 latent frames"),
        (
            {"local": 9, "sink": 3, "sink_kind": "adaptive", "placement": "relative"},
            "it takes placement absolute or wrapped",
        ),
        ({"local": 9, "scene_shift": 8}, "scene_shift is 8; it goes with a pinned sink"),
        (
            {"local": 9, "sink": 3, "sink_kind": "pinned", "switch": "recache", "switch_frames": 6},
            "it takes no bank, no recache",
        ),
        (
            {"local": 9, "sink": 3, "switch": "recache", "switch_frames": 6, "cut_position": 4},
            "as if there were no other",
        ),
    ],
)
def test_wrong_memories_are_named(memory, said):
    with pytest.raises(ManifestError, match=said.replace("(", r"\(")):
        parse_manifest({"name": "x", "chunking": {"latent_frames": 3}, "memory": memory}, source="manifest.yaml")


def test_what_counts_in_chunks_needs_equal_ones():
    for memory in (
        {"local": 9, "bank": {"size": 3}},
        {"local": 9, "rollout": 9, "overlap": 3, "placement": "relative"},
    ):
        chunking = {"latent_frames": 3, "first_latent_frames": 1}
        with pytest.raises(ManifestError, match="need a first chunk as long as the others"):
            parse_manifest({"name": "x", "chunking": chunking, "memory": memory}, source="manifest.yaml")
    alone = {"local": 3, "commit": "rebuild", "placement": "relative"}
    with pytest.raises(ManifestError, match="there is nothing besides a chunk"):
        parse_manifest({"name": "x", "chunking": {"latent_frames": 3}, "memory": alone}, source="manifest.yaml")


def test_a_memory_needs_chunks():
    with pytest.raises(ManifestError, match=r"memory needs chunking\.latent_frames"):
        parse_manifest({"name": "x", "memory": {"local": 9}}, source="manifest.yaml")
