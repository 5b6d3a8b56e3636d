"""One forward over many chunks, and batches of streams, against the engine's own streams of the same inputs."""

import pytest
import torch

from examples.train_sprites.chunk_attention import Bank, Seat, check_rule, find_pieces
from examples.train_sprites.chunk_forward import Rows, Streaming, evaluate_seats, select_rows
from examples.train_sprites.chunk_rollout import Rollout, seeded_noise
from reelray.proto.chunking import Chunking
from reelray.proto.memory_rule import Commit, MemoryRule, Placement, PromptSwitch, Sink
from reelray.proto.recipe import Guidance, Recipe, Schedule, Solver
from reelray.proto.request import PromptChange
from reelray.proto.step_plan import WindowStep
from reelray.proto.storage import Storage
from reelray.workers.engine.forwards import Forwards
from reelray.workers.engine.memory_rooms import MemoryRooms
from reelray.workers.engine.rank import Rank
from reelray.workers.engine.station import Station
from reelray.workers.engine.texts import Texts
from reelray.workers.engine.window_input import WindowInput
from reelray.workers.models.registry import open_checkpoint
from reelray.workers.models.wan.text_context import stack_contexts
from reelray.workers.samplers.guidance import Branch
from tests.support.memory_oracle import latest
from tests.support.plain_stream import stream_plainly
from tests.support.render_on import render_on
from tests.support.requests import make_request

RULE = MemoryRule(local=6, sink=2, placement=Placement.RELATIVE)
SIZE, CHUNKS = 2, 7
STREAMING = Streaming(rule=RULE, size=SIZE)
SLANTED = Schedule(
    solver=Solver.X0_RENOISE, timesteps=(1000.0, 357.0), first_chunks=((1000.0, 733.0, 357.0), (1000.0, 733.0))
)
PROMPTS = ("a red circle", "the green square moves left on a blue background")


@pytest.fixture(scope="module")
def model(tiny_t2v):
    return open_checkpoint(tiny_t2v, device="cpu")


def request_of(number=0, *, chunks=CHUNKS, **changes):
    recipe = Recipe(
        name="stream",
        schedule=SLANTED,
        guidance=Guidance(scale=1.0),
        chunking=Chunking(latent_frames=SIZE),
        memory=RULE,
    )
    return make_request(
        f"r{number}", recipe=recipe, prompt=PROMPTS[number], seed=number, width=48, height=32,
        latent_frames=chunks * SIZE, **changes,
    )  # fmt: skip


def window_of(latents, chunk, timestep, *, records=False):
    told = {"timesteps": (timestep,) * SIZE, "first": chunk * SIZE, "records": records}
    return WindowInput(latents_1CTHW=latents[chunk][None], **told)


def engine_flows(model, noisy, clean, *, timesteps, prompts):
    """The flow of every noisy chunk over the clean ones before it, by the engine's forwards and its memory."""
    request, texts = request_of(changes=(PromptChange(latent_frame=SIZE, prompt=PROMPTS[1]),)), Texts(model)
    texts.follow(request, since=0)
    forwards = Forwards(request=request, model=model, rooms=MemoryRooms(model), texts=texts)
    forwards.begin(Station())
    flows = []
    for chunk in range(CHUNKS):
        first = chunk * SIZE
        window = {"chunk": chunk, "first_latent_frame": first, "latent_frames": SIZE, "step": 0, "last": False}
        forwards.turn_to(WindowStep(request_id=request.request_id, prompt=prompts[chunk], **window))
        flows.append(forwards.run(window_of(noisy, chunk, float(timesteps[chunk])))(Branch.CONDITIONAL))
        forwards.run(window_of(clean, chunk, 0.0, records=True))(Branch.CONDITIONAL)
    forwards.release()
    return torch.cat(flows)


def test_one_forward_over_all_chunks_is_what_the_engine_streams(model):
    """Seven chunks, noisy and clean, two clips at once; the window is full from the third, and the prompt changes."""
    generator = torch.Generator().manual_seed(0)
    clips = 2
    clean, noisy = (torch.randn(clips, CHUNKS, 16, SIZE, 4, 6, generator=generator) for _ in range(2))
    timesteps = 1000 * torch.rand(clips, CHUNKS, generator=generator)
    prompts = torch.tensor([[0] * 3 + [1] * 4, [1] * 5 + [0] * 2])
    seats = [*(Seat(chunk, clean=True) for chunk in range(CHUNKS - 1)), *(Seat(chunk) for chunk in range(CHUNKS))]
    rows = torch.cat([clean[:, :-1].transpose(0, 1).flatten(0, 1), noisy.transpose(0, 1).flatten(0, 1)])
    times = torch.cat([torch.zeros(clips * (CHUNKS - 1)), timesteps.T.flatten()])
    index = torch.cat([prompts[:, :-1].T.flatten(), prompts.T.flatten()])
    text = select_rows(stack_contexts(model.encode_text(list(PROMPTS))), index)
    with torch.no_grad():
        flows = evaluate_seats(
            model.parts.transformer, STREAMING, seats, Rows(latents=rows, timesteps=times, text=text)
        )
    flows = flows[clips * (CHUNKS - 1) :].unflatten(0, (CHUNKS, clips))
    for clip in range(clips):
        wanted = engine_flows(
            model, noisy[clip], clean[clip], timesteps=timesteps[clip], prompts=prompts[clip].tolist()
        )
        torch.testing.assert_close(flows[:, clip], wanted, atol=1e-5, rtol=0)


def test_a_batch_of_streams_is_what_the_engine_makes_of_each(model):
    """Nine chunks of three, two and one steps; the second prompt of a stream comes at chunk four."""
    chunks, shape = 9, (16, SIZE, 4, 6)
    texts = stack_contexts(model.encode_text(list(PROMPTS)))
    rollout, made = Rollout(transformer=model.parts.transformer, streaming=STREAMING), []
    noise_of = seeded_noise([0, 1], shape, torch.device("cpu"))
    for chunk in range(chunks):
        text = select_rows(texts, torch.tensor([0, 1] if chunk < 4 else [1, 0]))
        clean, seen = rollout.denoise(SLANTED, text, noise_of)
        assert list(seen) == list(SLANTED.of_chunk(chunk).timesteps)
        made.append(clean)
        rollout.remember(clean, text)
    got = torch.cat(made, 2)
    for number in range(2):
        change = PromptChange(latent_frame=4 * SIZE, prompt=PROMPTS[1 - number])
        request = request_of(number, chunks=chunks, changes=(change,))
        latents = []

        class Watched:
            def __getattr__(self, name):
                return getattr(model, name)

            def decode(self, latents_1CTHW, state, latents=latents, **options):
                latents.append(latents_1CTHW.clone())
                return model.decode(latents_1CTHW, state, **options)

        render_on(Rank(Watched()), request)
        wanted = torch.cat(latents, 2)
        torch.testing.assert_close(got[number : number + 1], wanted, atol=1e-4 * float(wanted.abs().max()), rtol=0)


def test_a_batch_of_streams_is_what_a_plain_loop_makes(model):
    """The oracle in plain torch, which shares nothing with pages, regions or pieces."""
    request = request_of(chunks=8)
    texts = stack_contexts(model.encode_text(list(PROMPTS)))
    text = select_rows(texts, torch.tensor([0]))
    rollout, made = Rollout(transformer=model.parts.transformer, streaming=STREAMING), []
    noise_of = seeded_noise([0], (16, SIZE, 4, 6), torch.device("cpu"))
    for _ in range(8):
        clean, _ = rollout.denoise(SLANTED, text, noise_of)
        made.append(clean)
        rollout.remember(clean, text)
    wanted = stream_plainly(model, request, latest(6, sink=2, chunk=SIZE, relative=True), commit_timestep=0.0)
    torch.testing.assert_close(torch.cat(made, 2), wanted, atol=1e-4 * float(wanted.abs().max()), rtol=0)


def test_chunks_of_a_bank_are_those_of_one_forward(model):
    """Clean chunks may be evaluated before the noisy ones, which is how many noise levels share them."""
    rows = torch.randn(2 * CHUNKS - 1, 16, SIZE, 4, 6, generator=torch.Generator().manual_seed(3))
    clean = [Seat(chunk, clean=True) for chunk in range(CHUNKS - 1)]
    noisy = [Seat(chunk) for chunk in range(CHUNKS)]
    text = select_rows(stack_contexts(model.encode_text(list(PROMPTS))), torch.zeros(len(rows), dtype=torch.long))
    times = torch.cat([torch.zeros(len(clean)), torch.full((len(noisy),), 500.0)])

    def flows_of(seats, places, bank=None):
        chosen = Rows(
            latents=rows[places], timesteps=times[places], text=select_rows(text, torch.arange(len(rows))[places])
        )
        return evaluate_seats(model.parts.transformer, STREAMING, seats, chosen, bank=bank)

    bank, first = Bank(), slice(0, len(clean))
    with torch.no_grad():
        whole = flows_of([*clean, *noisy], slice(None))[len(clean) :]
        flows_of(clean, first, bank)
        for chunk in (4, 6):
            place = slice(len(clean) + chunk, len(clean) + chunk + 1)
            got = flows_of([Seat(chunk)], place, bank)
            torch.testing.assert_close(got, whole[chunk : chunk + 1], atol=1e-5, rtol=0)


def test_what_is_attended_and_where_it_is_turned():
    rule = MemoryRule(local=9, sink=3, placement=Placement.RELATIVE)
    assert find_pieces(rule, 3, 0) == ()
    assert [(piece.chunk, piece.turn) for piece in find_pieces(rule, 3, 3)] == [(0, 0), (1, 0), (2, 0)]
    # Chunk 6 stands at 9 and sees the sink at 0: in the video they are 18 apart, so the sink is moved on by 9.
    assert [(piece.chunk, piece.turn) for piece in find_pieces(rule, 3, 6)] == [(0, 9), (4, 0), (5, 0)]


@pytest.mark.parametrize(
    "rule",
    [
        MemoryRule(local=9, sink=3),
        MemoryRule(local=9, sink=2, placement=Placement.RELATIVE),
        MemoryRule(local=8, placement=Placement.RELATIVE),
        MemoryRule(local=9, placement=Placement.RELATIVE, commit=Commit.LAST_STEP),
        MemoryRule(local=9, placement=Placement.RELATIVE, commit_timestep=5.0),
        MemoryRule(local=9, placement=Placement.RELATIVE, means=(0.1,)),
        MemoryRule(local=9, sink=3, placement=Placement.RELATIVE, sink_kind=Sink.MOVING),
        MemoryRule(local=9, placement=Placement.RELATIVE, switch=PromptSwitch.FLUSH, switch_frames=3),
        MemoryRule(local=9, placement=Placement.RELATIVE, storage=Storage.FP8),
    ],
)
def test_rules_that_training_does_not_follow_are_refused(rule):
    with pytest.raises(ValueError, match=r"memory rule|multiples"):
        check_rule(rule, 3)


def test_gradients_reach_what_is_remembered(model):
    """Keys of clean chunks learn from the chunks that attend them."""
    clean, noisy = torch.randn(1, 16, SIZE, 4, 6, requires_grad=True), torch.randn(1, 16, SIZE, 4, 6)
    text = select_rows(stack_contexts(model.encode_text([PROMPTS[0]])), torch.tensor([0, 0]))
    rows, times = torch.cat([clean, noisy]), torch.tensor([0.0, 700.0])
    seats = [Seat(0, clean=True), Seat(1)]
    flows = evaluate_seats(model.parts.transformer, STREAMING, seats, Rows(latents=rows, timesteps=times, text=text))
    flows[1].sum().backward()
    assert clean.grad is not None
    assert clean.grad.abs().sum() > 0
