"""Presets with chunks at several noise levels against their published recipes: windows, levels, memory, commits."""

import pytest

from reelray.proto.errors import ManifestError
from reelray.proto.memory_rule import Commit, PromptSwitch
from reelray.proto.recipe import Solver
from reelray.proto.step_plan import Part
from reelray.scheduler.chunks import cut_chunks
from reelray.scheduler.steps import plan_steps
from reelray.workers.memory.entries import Drop, Frame
from reelray.workers.memory.regions import Regions
from reelray.workers.recipes.manifest import parse_manifest
from reelray.workers.recipes.presets import find_preset_for, presets
from reelray.workers.samplers.sigmas import plan_noise_levels
from tests.support.forced_stream import make_scheduler, step_table
from tests.support.joint_stream import anchored, newest, shifted, wrapped

CHUNK, CHUNKS = 3, 40
# Timesteps, largest first; what a window attends; what a clean pass attends.
ROLLED = {
    "rolling-forcing-1.3b": (
        [1000.0, 952.381, 882.353, 769.2308, 555.5556],
        anchored(21, anchor=3, chunk=CHUNK),
        newest(21, chunk=CHUNK),
    ),
    "block-cascading-1.3b": (
        [1000.0, 937.5, 833.3333, 625.0],
        newest(21, chunk=CHUNK),
        newest(21, chunk=CHUNK),
    ),
}
FORCED = {"skyreels-v2-df-14b": (0, 1), "skyreels-v2-df-async-14b": (5, 5)}  # `ar_step` and `causal_block_size`


def joint():
    found = presets().items()
    return {name: recipe for name, recipe in found if recipe.chunking.stagger is not None}


def test_every_preset_of_chunks_in_flight_is_held_here():
    assert set(joint()) == {*ROLLED, *FORCED}
    by_level = {n for n, recipe in presets().items() if recipe.memory and recipe.memory.commit is Commit.EVERY_STEP}
    assert by_level == {"streamdiffusion-v2-1.3b"}


@pytest.mark.parametrize("name", ROLLED)
def test_noise_levels_are_the_published_ones(name):
    recipe, (timesteps, _, _) = presets()[name], ROLLED[name]
    levels = plan_noise_levels(recipe.schedule)
    assert list(levels.timesteps) == pytest.approx(timesteps, abs=1e-3)
    # What a chunk is noised to again is the level it is at next.
    assert list(levels.sigmas) == pytest.approx([*(t / 1000 for t in timesteps), 0.0], abs=1e-6)
    assert recipe.schedule.solver is Solver.X0_RENOISE
    assert recipe.chunking.latent_frames == CHUNK
    assert recipe.memory.commit is Commit.CLEAN
    assert recipe.memory.commit_timestep == 0
    assert recipe.memory.switch is PromptSwitch.KEEP
    assert not recipe.guidance.needs_unconditional


@pytest.mark.parametrize("name", ROLLED)
@pytest.mark.parametrize("chunks", [1, 3, CHUNKS])
def test_windows_hold_the_published_chunks_at_the_published_levels(name, chunks):
    """Also where there are fewer chunks than levels."""
    recipe, levels = presets()[name], len(ROLLED[name][0])
    steps = plan_steps(recipe, cut_chunks(recipe.chunking, CHUNK * chunks))
    found = [steps.find(done) for done in range(len(steps))]
    windows = [step for step in found if step.slots]
    assert len(windows) == chunks + levels - 1
    for number, window in enumerate(windows):
        held = range(max(0, number - levels + 1), min(chunks - 1, number) + 1)
        assert [(slot.chunk, slot.step) for slot in window.slots] == [(chunk, number - chunk) for chunk in held]
        assert (window.span.first, window.span.length) == (CHUNK * held[0], CHUNK * len(held))
        assert not window.commits
    after = {done: steps.clean_chunks(done + 1) for done, step in enumerate(found) if step.slots}
    assert list(after.values()) == [max(0, number - levels + 2) for number in range(len(windows))]
    commits = [(done, step) for done, step in enumerate(found) if step.commits]
    assert [step.chunk for _, step in commits] == [*range(chunks - 1)]
    for done, step in commits:
        assert (step.span.first, step.span.length) == (CHUNK * step.chunk, CHUNK)
        assert found[done - 1].slots[0].chunk == step.chunk
        assert found[done - 1].last


@pytest.mark.parametrize("name", ROLLED)
def test_what_windows_attend_is_what_was_published(name):
    """Frames and their places, window by window, over forty chunks."""
    recipe, (_, rule, clean_rule) = presets()[name], ROLLED[name]
    regions, held, most = Regions(rule=recipe.memory, chunk=CHUNK), set(), 0
    steps = plan_steps(recipe, cut_chunks(recipe.chunking, CHUNK * CHUNKS))
    for step in map(steps.find, range(len(steps))):
        first, length = step.span.first, step.span.length
        wanted = (clean_rule if step.commits else rule)(first, length)
        entries, places = regions.attend(first, length, records=step.commits)
        assert [(place, entry.index) for place, entry in zip(places, entries, strict=True)] == [
            (place, frame) for place, weights in wanted.entries for frame in weights
        ]
        assert list(regions.positions(first, length)[1]) == wanted.own
        assert held >= set(entries)
        most = max(most, len(entries) + length)
        if step.commits:
            held |= {Frame(index=index) for index in range(first, first + length)}
            held -= {change.entry for change in regions.commit(first, length) if isinstance(change, Drop)}
            assert len(held) <= regions.most
    assert most == 21


@pytest.mark.parametrize("name", FORCED)
def test_rounds_take_the_published_table_of_steps(name):
    """Of four rounds: who moves in each forward, which timestep each frame is told, which frames the window has."""
    recipe, (ar_step, block) = presets()[name], FORCED[name]
    scheduler = make_scheduler(30, 8.0)
    levels = plan_noise_levels(recipe.schedule)
    assert list(levels.timesteps) == scheduler.timesteps.tolist()
    assert list(levels.sigmas) == pytest.approx(scheduler.sigmas.tolist(), abs=2e-6)
    steps = plan_steps(recipe, cut_chunks(recipe.chunking, 85))
    found = [steps.find(done) for done in range(len(steps))]
    assert not any(step.commits for step in found)
    for first in (0, 25, 45, 65):
        given = 5 if first else 0
        table, moves = step_table(25, scheduler, given=given, ar_step=ar_step, block=block)
        mine, found = found[: len(table)], found[len(table) :]
        for step, row, moving in zip(mine, table, moves, strict=True):
            assert (step.span.first, step.span.length) == (first - given, 25)
            told = [_told(slot, levels.timesteps) for slot in step.slots for _ in range(slot.latent_frames)]
            assert told == [20.0] * given + row[given:].tolist()
            moved = [slot.part is Part.MOVES for slot in step.slots for _ in range(slot.latent_frames)]
            assert moved == moving.tolist()
        assert steps.clean_chunks(len(steps) - len(found)) == (first - given + 25) // 5
    assert not found


def _told(slot, timesteps):
    return {Part.GIVEN: 20.0, Part.RESTS: 0.0}.get(slot.part, timesteps[slot.step if slot.part is Part.MOVES else 0])


@pytest.mark.parametrize("name", FORCED)
def test_what_rounds_go_by_is_what_was_published(name):
    recipe = presets()[name]
    assert (recipe.guidance.scale, recipe.defaults.fps, recipe.defaults.frames) == (6.0, 24, 97)
    assert recipe.chunking.overlap_timestep == 20.0
    assert recipe.is_endless
    assert recipe.schedule.loses_start


def test_levels_of_streamdiffusion_are_the_published_ones():
    """Chunk after chunk: each step is remembered at its own level, of the first chunk only the last; no clean pass."""
    recipe = presets()["streamdiffusion-v2-1.3b"]
    levels = plan_noise_levels(recipe.schedule)
    assert levels.timesteps == (700.0, 500.0, 400.0, 200.0)
    # The nearest entries of the table of shift 8; it has one at every thousandth of the unshifted levels.
    table = [shifted(entry, 8.0) for entry in range(1, 1001)]
    nearest = [min(table, key=lambda sigma: abs(sigma - t / 1000)) for t in levels.timesteps]
    assert list(levels.sigmas) == pytest.approx([*nearest, 0.0], abs=1e-6)
    assert (recipe.chunking.first_latent_frames, recipe.chunking.latent_frames) == (2, 1)
    chunks = cut_chunks(recipe.chunking, 200)
    steps = plan_steps(recipe, chunks)
    found = [steps.find(done) for done in range(len(steps))]
    assert [(s.chunk, s.step, s.level, s.last) for s in found] == [
        (chunk, step, step, step == 3) for chunk in range(len(chunks)) for step in range(4)
    ]
    assert [s.commits for s in found] == [False] * 3 + [True] * (4 * (len(chunks) - 2) + 1) + [False] * 4
    rule, regions = wrapped(6, sink=3, wrap=50, first=2), Regions(rule=recipe.memory, chunk=1)
    seen = []
    for chunk in chunks:
        wanted, (entries, places) = rule(chunk.first, chunk.length), regions.attend(chunk.first, chunk.length)
        assert [(place, entry.index) for place, entry in zip(places, entries, strict=True)] == [
            (place, frame) for place, weights in wanted.entries for frame in weights
        ]
        assert list(regions.positions(chunk.first, chunk.length)[1]) == wanted.own
        seen += wanted.own
        regions.commit(chunk.first, chunk.length)
    assert seen[:52] == [*range(50), 5, 6]
    assert max(seen) == 49
    assert recipe.is_endless


def test_folders_find_their_own_preset(tmp_path):
    config = '{"_class_name": "CausalWanModel", "dim": 1536, "num_layers": 30}'
    large = '{"_class_name": "WanModel", "dim": 5120, "num_layers": 40, "in_dim": 16}'
    for folder, name in (
        ("RollingForcing", "rolling-forcing-1.3b"),
        ("rolling_forcing_dmd", "rolling-forcing-1.3b"),
        ("self-forcing-block-cascading", "block-cascading-1.3b"),
        ("StreamDiffusionV2-1.3b", "streamdiffusion-v2-1.3b"),
        ("SkyReels-V2-DF-14B-540P", "skyreels-v2-df-14b"),
        ("SkyReels-V2-DF-async", "skyreels-v2-df-async-14b"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(large if "14b" in name else config)
        assert find_preset_for(tmp_path / folder).name == name


SEVERAL = {"chunking": {"latent_frames": 3, "stagger": 1}, "memory": {"local": 9}, "guidance": {"scale": 1.0}}
LISTED = {"solver": "x0_renoise", "timesteps": [1000, 750, 500]}
ROUNDS = {"latent_frames": 3, "stagger": 0, "round_latent_frames": 9}
WRAPPED = {"local": 9, "placement": "wrapped"}
WRONG = [
    ({"chunking": {"latent_frames": 3}, "memory": WRAPPED}, "wrap is 0; with placement wrapped it must be at least 9"),
    ({"chunking": {"latent_frames": 3}, "memory": {"local": 9, "wrap": 20}}, "wrap is 20; with placement wrapped"),
    (
        {
            "chunking": {"latent_frames": 3},
            "memory": {"local": 9, "commit": "every_step", "switch": "recache", "switch_frames": 6},
        },
        "with commit every_step none are",
    ),
    (
        {
            "chunking": {"latent_frames": 3},
            "memory": {"local": 9, "commit": "every_step"},
            "schedule": {**LISTED, "first_chunks": [[1000]]},
        },
        "all chunks must have the same steps",
    ),
    ({"chunking": ROUNDS}, "needs memory or chunking.round_latent_frames, and takes not both"),
    ({"chunking": {**ROUNDS, "overlap": 2}, "memory": None}, "overlap is 2; they must be multiples"),
    ({"chunking": {**ROUNDS, "overlap": 9}, "memory": None}, "overlap is 9; they must be multiples"),
    ({"chunking": {**ROUNDS, "stagger": None}, "memory": None}, "round_latent_frames needs latent_frames and stagger"),
    ({"chunking": {"latent_frames": 3, "overlap": 3}}, "overlap is 3; it is a part of a round"),
    ({"chunking": {**ROUNDS, "overlap_timestep": 2000.0}, "memory": None}, "overlap_timestep is 2000.0"),
    ({"schedule": {**LISTED, "loses_start": True}}, "loses_start is a fault of unipc"),
    ({"memory": {"local": 8}}, "memory.local is 8; frames of all chunks in flight count too, and are 9"),
    ({"memory": {"local": 9, "commit": "last_step"}}, "needs memory.commit clean_pass"),
    ({"memory": {"local": 9, "switch": "flush", "switch_frames": 3}}, "needs memory.switch keep"),
    ({"memory": None}, "needs memory or chunking.round_latent_frames"),
    ({"guidance": {"per_step": [3.0, 1.0, 1.0]}}, "needs one guidance scale"),
    ({"guidance": {"interval": [0.0, 0.5]}}, "needs one guidance scale"),
    ({"schedule": {**LISTED, "first_chunks": [[1000]]}}, "needs the same steps for all chunks"),
    ({"chunking": {"latent_frames": 3, "stagger": 4}}, "chunking.stagger is 4; a chunk has 3 steps"),
    ({"chunking": {"latent_frames": 3, "stagger": 0}}, "stagger is 0; it must be at least 1"),
    ({"chunking": {"stagger": 1}, "memory": None}, "stagger needs latent_frames"),
    ({"task": "i2v"}, "needs task t2v"),
]


@pytest.mark.parametrize(("part", "said"), WRONG)
def test_what_chunks_in_flight_cannot_have_is_named(part, said):
    recipe = {"name": "x", "schedule": LISTED, **SEVERAL}
    parse_manifest(recipe, source="manifest.yaml")
    with pytest.raises(ManifestError, match=said.replace("(", r"\(")):
        parse_manifest({**recipe, **part}, source="manifest.yaml")
