"""Windows over a memory of pages against a rollout in plain torch, recipe by recipe."""

import gc
from weakref import ref

import pytest
import torch

from reelray.proto.errors import ResourceError
from reelray.proto.memory_rule import MemoryRule, Placement, PromptSwitch, Sink
from reelray.workers.memory.room import Grid, MemoryRoom
from reelray.workers.models.registry import open_checkpoint
from tests.support.memory_oracle import PlainMemory, latest, moving_sink, running_means

CHUNK, LATENT = 2, (4, 6)
GRID = Grid(rows=2, columns=3)
RULES = {
    "all": (MemoryRule(local=40), latest(40, chunk=CHUNK)),
    "latest": (MemoryRule(local=6), latest(6, chunk=CHUNK)),
    "sink": (MemoryRule(local=4, sink=3), latest(4, sink=3, chunk=CHUNK)),
    "sink, relative": (
        MemoryRule(local=4, sink=1, placement=Placement.RELATIVE),
        latest(4, sink=1, chunk=CHUNK, relative=True),
    ),
    "moving sink": (
        MemoryRule(local=4, sink=2, sink_kind=Sink.MOVING, sink_kept=0.7, placement=Placement.RELATIVE),
        moving_sink(4, sink=2, chunk=CHUNK, kept=0.7),
    ),
    "running means": (
        MemoryRule(local=4, sink=2, means=(0.1, 0.4), placement=Placement.RELATIVE),
        running_means(4, sink=2, chunk=CHUNK, shares=(0.1, 0.4)),
    ),
}


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


def make_room(model, *, budget_bytes=1 << 24, rows=4):
    heads = model.parts.transformer.config.num_attention_heads
    return MemoryRoom(
        model.key_shape(heads),
        budget_bytes=budget_bytes,
        device=model.device,
        angles=model.angles,
        rows=rows,
        poison=True,
    )


def make_oracle(model, rule):
    config = model.parts.transformer.config
    return PlainMemory(rule=rule, grid=(GRID.rows, GRID.columns), pairs=tuple(dim // 2 for dim in config.rope_dims))


def draw(chunk, step=0):
    generator = torch.Generator().manual_seed(100 * chunk + step)
    return torch.randn(1, 16, CHUNK, *LATENT, generator=generator)


def predict(model, text, latents, timestep, positions, *, view=None):
    times = torch.full((1, latents.shape[2]), timestep)
    return model.denoise(latents, times, [text], positions_BT=torch.tensor([positions]), view=view)


def predict_plainly(model, oracle, text, latents, timestep, *, window, commits):
    oracle.window, oracle.commits = window, commits
    transformer = model.parts.transformer
    with torch.no_grad():
        return transformer(latents, torch.full((1, latents.shape[2]), timestep), text, attention=oracle).float()


@pytest.mark.parametrize("name", RULES)
def test_a_rollout_equals_the_plain_one(model, name):
    """Eight chunks, so that every window has overflowed more than three times; one denoise step and one commit each."""
    rule, plainly = RULES[name]
    (text,) = model.encode_text(["a red circle"])
    memory, oracle = make_room(model).open(rule, chunk=CHUNK, grid=GRID), make_oracle(model, plainly)
    for chunk in range(8):
        first = chunk * CHUNK
        for step, timestep in enumerate((800.0, 0.0)):
            commits, latents = timestep == 0.0, draw(chunk, step)
            view, places = memory.view(first, CHUNK, records=commits), memory.positions(first, CHUNK)
            found = predict(model, text, latents, timestep, places, view=view)
            wanted = predict_plainly(model, oracle, text, latents, timestep, window=(first, CHUNK), commits=commits)
            assert (found - wanted).abs().max() < 1e-5, (chunk, step)
        memory.commit(first, CHUNK)
    assert max(oracle.seen) == min(14, rule.sink + len(rule.means) + rule.local - CHUNK)


def test_clean_chunks_one_after_the_other_equal_one_causal_forward(model):
    """With everything remembered, memory is what a mask would be."""
    (text,) = model.encode_text(["a red circle"])
    clips = torch.cat([draw(chunk) for chunk in range(4)], 2)
    memory = make_room(model).open(MemoryRule(local=40), chunk=CHUNK, grid=GRID)
    found = []
    for first in range(0, 8, CHUNK):
        view = memory.view(first, CHUNK, records=True)
        places = memory.positions(first, CHUNK)
        found.append(predict(model, text, clips[:, :, first : first + CHUNK], 0.0, places, view=view))
        memory.commit(first, CHUNK)
    config = model.parts.transformer.config

    class Causal(PlainMemory):
        def __call__(self, q_BSND, k_BSND, v_BSND, **_options):
            turned = [
                torch.cat([self.turn(part[0, i * 6 : i * 6 + 6].double(), i) for i in range(8)])
                for part in (q_BSND, k_BSND)
            ]
            scores = torch.einsum("snd,tnd->nst", *turned) / q_BSND.shape[-1] ** 0.5
            chunk = torch.arange(48) // (6 * CHUNK)
            scores = scores.masked_fill(chunk[None] > chunk[:, None], -torch.inf)
            return torch.einsum("nst,tnd->snd", scores.softmax(-1), v_BSND[0].double())[None].float()

    causal = Causal(rule=latest(40, chunk=CHUNK), grid=(2, 3), pairs=tuple(dim // 2 for dim in config.rope_dims))
    wanted = predict_plainly(model, causal, text, clips, 0.0, window=(0, 8), commits=False)
    assert (torch.cat(found, 2) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("mistake", ["no commit", "a place too far", "another prompt's text", "keys elsewhere"])
def test_mistakes_are_seen(model, mistake):
    """The comparison above would notice each of these."""
    text, other = model.encode_text(["a red circle", "a blue star"])
    rule, plainly = RULES["sink, relative"]
    room = make_room(model)
    if mistake == "keys elsewhere":
        room = MemoryRoom(
            model.key_shape(2),
            budget_bytes=1 << 24,
            device=model.device,
            angles=lambda places, grid: model.angles([2 * place for place in places], grid),
        )
    memory, oracle = room.open(rule, chunk=CHUNK, grid=GRID), make_oracle(model, plainly)
    worst = 0.0
    for chunk in range(4):
        first, latents = chunk * CHUNK, draw(chunk)
        places = [place + (mistake == "a place too far") * (chunk > 0) for place in memory.positions(first, CHUNK)]
        view = memory.view(first, CHUNK, records=True)
        words = other if mistake == "another prompt's text" and chunk == 2 else text
        found = predict(model, words, latents, 0.0, places, view=view)
        wanted = predict_plainly(model, oracle, text, latents, 0.0, window=(first, CHUNK), commits=True)
        worst = max(worst, float((found - wanted).abs().max()))
        if mistake == "no commit" and chunk == 1:
            memory.memory.regions.committed += CHUNK
            continue
        memory.commit(first, CHUNK)
    assert worst > 1e-4


def test_two_videos_take_turns_at_one_workspace(model):
    """Nobody's prediction changes because of a neighbour."""
    (text,) = model.encode_text(["a red circle"])
    rule, room = RULES["latest"][0], make_room(model)

    def run(memories):
        found = {name: [] for name in memories}
        for chunk in range(5):
            for name, memory in memories.items():
                first = chunk * CHUNK
                for commits in (False, True):
                    view = memory.view(first, CHUNK, records=commits)
                    places = memory.positions(first, CHUNK)
                    found[name].append(
                        predict(model, text, draw(chunk + 50 * (name == "b"), commits), 0.0, places, view=view)
                    )
                memory.commit(first, CHUNK)
        return found

    together = run({name: room.open(rule, chunk=CHUNK, grid=GRID) for name in "ab"})
    for name in "ab":
        alone = run({name: room.open(rule, chunk=CHUNK, grid=GRID)})[name]
        assert all(torch.equal(a, b) for a, b in zip(alone, together[name], strict=True))


def test_a_fork_goes_its_own_way_and_shares_what_was(model):
    (text,) = model.encode_text(["a red circle"])
    room = make_room(model)
    memory = room.open(RULES["latest"][0], chunk=CHUNK, grid=GRID)

    def go_on(memory, chunk, seed):
        first = chunk * CHUNK
        view = memory.view(first, CHUNK, records=True)
        prediction = predict(model, text, draw(seed), 0.0, memory.positions(first, CHUNK), view=view)
        memory.commit(first, CHUNK)
        return prediction

    for chunk in range(3):
        go_on(memory, chunk, chunk)
    free = room.pool.free
    fork = memory.fork()
    assert room.pool.free == free
    ours = [go_on(memory, chunk, chunk) for chunk in (3, 4, 5)]
    theirs = [go_on(fork, chunk, chunk) for chunk in (3, 4, 5)]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(go_on(fork, 6, 60), go_on(memory, 6, 61))
    memory.close()
    go_on(fork, 7, 7)
    fork.close()
    assert room.pool.free == room.pool.unpromised == room.pool.pages


TOKEN_BYTES = 2 * 2 * 2 * 16 * 4
"""Keys and values, two layers, two heads of sixteen values in four bytes."""


def desk_bytes(*, attended, window):
    """A workspace of what is attended and the window, and the window once more while it waits to be remembered."""
    return (attended + 2 * window) * GRID.places * TOKEN_BYTES


def test_a_video_is_refused_by_exactly_the_bytes_it_may_ever_take(model):
    """Six frames of two pages; its workspace shows four of them and the window."""
    rule, page_bytes = MemoryRule(local=6), 4 * TOKEN_BYTES
    workspace_pages = desk_bytes(attended=4, window=2) // page_bytes
    assert workspace_pages == 12
    needed = (6 * 2 + workspace_pages) * page_bytes
    small = make_room(model, budget_bytes=needed - 1)
    with pytest.raises(ResourceError, match=f"takes {needed} bytes, more than the {needed - page_bytes} that there"):
        small.open(rule, chunk=CHUNK, grid=GRID)
    assert small.pool.free == small.pool.unpromised == small.pool.pages
    room = make_room(model, budget_bytes=needed)
    room.open(rule, chunk=CHUNK, grid=GRID)
    assert room.pool.unpromised == 0


def test_videos_of_a_kind_share_a_workspace_and_others_take_one_more(model):
    rule, page_bytes = MemoryRule(local=6), 4 * TOKEN_BYTES
    room = make_room(model, budget_bytes=(2 * 12 + 12 + 5) * page_bytes)
    first = room.open(rule, chunk=CHUNK, grid=GRID)
    second = room.open(rule, chunk=CHUNK, grid=GRID)
    assert room.pool.unpromised == 5
    needed = 2 * 2 * page_bytes + desk_bytes(attended=0, window=2)
    with pytest.raises(ResourceError, match=f"takes {needed} bytes; {5 * page_bytes} of .* are not promised"):
        room.open(MemoryRule(local=2), chunk=CHUNK, grid=GRID)
    second.close()
    room.open(MemoryRule(local=2), chunk=CHUNK, grid=GRID)
    with pytest.raises(ResourceError, match="not promised"):
        first.fork()
    assert room.pool.unpromised == 5 + 12 - 4 - 6


def test_both_branches_are_counted_before_one_is_opened(model):
    rule, page_bytes = MemoryRule(local=6), 4 * TOKEN_BYTES
    room = make_room(model, budget_bytes=2 * 24 * page_bytes - 1)
    room.check(rule, chunk=CHUNK, grid=GRID)
    with pytest.raises(ResourceError, match=f"takes {2 * 24 * page_bytes} bytes"):
        room.check(rule, chunk=CHUNK, grid=GRID, branches=2)
    assert room.pool.unpromised == 47
    make_room(model, budget_bytes=2 * 24 * page_bytes).check(rule, chunk=CHUNK, grid=GRID, branches=2)


def test_what_is_remembered_anew_widens_the_window(model):
    rule = MemoryRule(local=6, sink=1, switch=PromptSwitch.RECACHE, switch_frames=5)
    room, page_bytes = make_room(model), 4 * TOKEN_BYTES
    room.open(rule, chunk=CHUNK, grid=GRID)
    pages = 7 * 2 + -(-desk_bytes(attended=5, window=5) // page_bytes)
    assert room.pool.pages - room.pool.unpromised == pages


def test_a_workspace_goes_with_the_last_of_those_who_use_it(model):
    """Three of a kind, one of them forked, and one of another. Its pages are free at once, it goes with the room."""
    (text,) = model.encode_text(["a red circle"])
    room = make_room(model)

    def see(memory):
        view = memory.view(0, CHUNK, records=True)
        predict(model, text, draw(0), 0.0, memory.positions(0, CHUNK), view=view)
        memory.commit(0, CHUNK)
        return [ref(part) for part in (memory.view(CHUNK, CHUNK, records=True).past.workspace, memory.staging)]

    other = room.open(RULES["sink"][0], chunk=CHUNK, grid=GRID)
    apart, free = see(other), room.pool.free
    memories = [room.open(RULES["latest"][0], chunk=CHUNK, grid=GRID) for _ in range(2)]
    shared = see(memories[0])
    memories.append(memories[0].fork())
    for memory in memories:
        assert room.pool.free < free
        memory.staging = None
        memory.close()
        memory.close()
    assert room.pool.free == free
    gc.collect()
    assert all(part() is not None for part in apart)
    other.close()
    assert room.pool.free == room.pool.unpromised == room.pool.pages
    room.close()
    gc.collect()
    assert [part() for part in shared + apart] == [None] * 4


def test_the_next_of_a_kind_finds_the_workspace_as_it_was_unless_others_took_its_pages(model):
    """What was recorded of forwards at it serves again; what lay in it does not."""
    (text,) = model.encode_text(["a red circle"])
    room = make_room(model)

    def stream(seed, *, keep=False):
        memory, views, found = room.open(RULES["latest"][0], chunk=CHUNK, grid=GRID), [], []
        for chunk in range(3):
            first = chunk * CHUNK
            views.append(memory.view(first, CHUNK, records=True))
            found.append(predict(model, text, draw(seed + chunk), 0.0, memory.positions(first, CHUNK), view=views[-1]))
            memory.commit(first, CHUNK)
        if not keep:
            memory.close()
        return views, found

    views, wanted = stream(0)
    stream(50)
    again, found = stream(0)
    assert all(a is b for a, b in zip(views, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    hogs = room.arena.take(room.pool.free)
    room.arena.drop(hogs[:-1])
    another, found = stream(0)
    assert another[0] is not views[0]
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    room.arena.drop(hogs[-1:])
    assert room.pool.free == room.pool.unpromised == room.pool.pages


def test_who_still_holds_a_view_of_a_room_that_is_closed_holds_none_of_its_memory(model):
    """As a recorded forward does that will never run again."""
    room = make_room(model)
    memory = room.open(RULES["latest"][0], chunk=CHUNK, grid=GRID)
    view = memory.view(0, CHUNK, records=True)
    memory.commit(0, CHUNK)
    past = memory.view(CHUNK, CHUNK, records=True).past
    arena = ref(room.arena)
    memory.close()
    room.close()
    del room, memory
    gc.collect()
    assert arena() is None
    with pytest.raises(IndexError):
        past.extend(*torch.zeros(2, 1, 1, 2, 16), layer=0, heads=range(2))
    with pytest.raises(IndexError):
        view.recorder.write(*torch.zeros(2, 1, 1, 2, 16), layer=0, heads=range(2))
