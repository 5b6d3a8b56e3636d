"""Recorded forwards give what plain ones give, whatever changes between them."""

import pytest
import torch

from reelray.workers.memory.workspace import fill_workspace
from reelray.workers.models.attention_op import View, WindowAttention
from reelray.workers.models.captured import CapturedModel, CudaRecorder
from reelray.workers.models.sharding import WholeWindow
from reelray.workers.models.stages import WholeModel
from tests.support.captured_cases import SHARD, Replayer, make_context, open_forward
from tests.support.parallel_cases import make_model


@pytest.fixture(scope="module")
def model():
    return make_model("t2v", torch.float32, "cpu")


@torch.no_grad()
def test_everything_that_changes_between_forwards_reaches_the_recording(model):
    record = Replayer()
    captured, plain = CapturedModel(record), WholeModel()
    prompts = [make_context(model, seed, 5) for seed in (70, 71)]
    calls = [
        {"seed": 0, "context": prompts[0]},
        {"seed": 1, "context": prompts[0]},
        {"seed": 1, "context": prompts[1]},  # the other branch of guidance
        {"seed": 2, "context": prompts[0], "step": 3.0},
        {"seed": 2, "context": prompts[0], "first": 9},
        {"seed": 3, "context": prompts[1]},
    ]
    found = [captured.evaluate(open_forward(model, **call)) for call in calls]
    wanted = [plain.evaluate(open_forward(model, **call)) for call in calls]
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours, theirs)
    assert (record.recorded, record.replayed) == (1, len(calls) - 1)
    assert not any(torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])


@torch.no_grad()
def test_prompts_of_other_lengths_sizes_and_shards_have_recordings_of_their_own(model):
    record = Replayer()
    captured, plain = CapturedModel(record, graphs=3), WholeModel()
    kinds = [{}, {"words": 9}, {"size": (2, 6, 10)}, {"size": (2, 6, 12)}]
    for round_ in range(3):
        for kind in kinds[:3]:
            call = {"seed": round_, **kind}
            assert torch.equal(
                captured.evaluate(open_forward(model, **call)), plain.evaluate(open_forward(model, **call))
            )
    assert (record.recorded, record.replayed) == (3, 6)
    for seed in (0, 1, 2):  # a fourth kind pushes out the one used longest ago
        call = {"seed": seed, **kinds[3]}
        assert torch.equal(captured.evaluate(open_forward(model, **call)), plain.evaluate(open_forward(model, **call)))
    captured.evaluate(open_forward(model, seed=5))
    assert (record.recorded, record.replayed, record.alive) == (4, 8, 2)
    captured.forget()
    assert (record.alive, record.renewed) == (0, 1)
    call = {"seed": 6, **kinds[3]}
    assert torch.equal(captured.evaluate(open_forward(model, **call)), plain.evaluate(open_forward(model, **call)))
    assert record.recorded == 4


@torch.no_grad()
def test_ranks_that_do_not_share_a_window_do_not_push_out_each_others_recordings(model):
    record = Replayer()
    captured = CapturedModel(record, graphs=1)
    other = WholeWindow()
    for seed in range(3):
        for shard in (SHARD, other):
            forward = open_forward(model, seed=seed, shard=shard)
            assert torch.equal(captured.evaluate(forward), WholeModel().evaluate(forward))
    assert (record.recorded, record.replayed) == (2, 4)


class Doubtful(WholeWindow):
    """Another rank has no memory for the recording."""

    asked = 0

    def agree(self, *, own):
        self.asked += 1
        assert own
        return False


@torch.no_grad()
def test_ranks_record_together_or_not_at_all(model):
    record, shard = Replayer(), Doubtful()
    captured = CapturedModel(record)
    for seed in range(4):
        forward = open_forward(model, seed=seed, shard=shard)
        assert torch.equal(captured.evaluate(forward), WholeModel().evaluate(forward))
    assert (record.recorded, record.replayed, record.alive, shard.asked) == (1, 0, 0, 1)


class Uneven(WholeWindow):
    """Another rank has one token more."""

    def widest(self, own):
        return own + 1


@torch.no_grad()
@pytest.mark.parametrize(("limit", "recorded"), [(45, 0), (46, 1)])
def test_the_rank_with_most_tokens_decides_for_all(model, limit, recorded):
    record, shard = Replayer(), Uneven()
    captured = CapturedModel(record, tokens=limit)
    for _ in range(2):
        captured.evaluate(open_forward(model, seed=0, shard=shard))
    assert record.recorded == recorded


@torch.no_grad()
def test_an_image_reaches_the_recording():
    model = make_model("i2v", torch.float32, "cpu")
    captured, plain = CapturedModel(Replayer()), WholeModel()
    for seed in range(4):
        image = model.prepare_image(
            torch.randn(1, 7, model.config.image_dim, generator=torch.Generator().manual_seed(seed))
        )
        forward = open_forward(model, seed=0, image=image)
        assert torch.equal(captured.evaluate(forward), plain.evaluate(forward))


@torch.no_grad()
def test_large_forwards_and_training_are_not_recorded(model):
    record = Replayer()
    captured = CapturedModel(record, tokens=44)
    for _ in range(3):
        captured.evaluate(open_forward(model, seed=0))
    with torch.enable_grad():
        for _ in range(3):
            CapturedModel(record).evaluate(open_forward(model, seed=0))
    assert record.recorded == 0


@torch.no_grad()
def test_no_memory_to_record_is_no_failure(model, caplog):
    class Full(Replayer):
        def __call__(self, _):
            raise torch.OutOfMemoryError("CUDA out of memory")

    captured = CapturedModel(Full())
    for _ in range(3):
        forward = open_forward(model, seed=0)
        assert torch.equal(captured.evaluate(forward), WholeModel().evaluate(forward))
    assert "no memory to capture a forward of 45 tokens" in caplog.text


@torch.no_grad()
def test_a_window_attends_what_is_remembered(model):
    """Two windows in a row: the second with the first one's keys and values is the end of both at once."""
    heads, width, tokens = model.config.num_attention_heads, model.config.attention_head_dim, 45
    generator = torch.Generator().manual_seed(0)

    def draw(count):
        return torch.randn(1, count, heads, width, generator=generator)

    q, k, v = draw(2 * tokens), draw(2 * tokens), draw(2 * tokens)
    own = {"layer": 1, "cos_BSP": None, "sin_BSP": None}
    whole = WindowAttention()(q, k, v, **own)
    past = fill_workspace([torch.zeros_like(k[:, :tokens]), k[:, :tokens]], [v[:, :tokens]] * 2, window=tokens)
    late = [part[:, tokens:] for part in (q, k, v)]
    torch.testing.assert_close(WindowAttention(View(past=past))(*late, **own), whole[:, tokens:])
    some = fill_workspace([k[:, :tokens, 1:3]] * 2, [v[:, :tokens, 1:3]] * 2, window=tokens, first_head=1)
    keys, values = some.extend(late[1][:, :, 2:3], late[2][:, :, 2:3], layer=1, heads=range(2, 3))
    assert torch.equal(keys, k[:, :, 2:3])
    assert torch.equal(values, v[:, :, 2:3])


@pytest.mark.gpu
@torch.no_grad()
def test_cuda_graphs_give_what_kernels_give():
    model = make_model("t2v", torch.bfloat16, "cuda", attention_head_dim=64)
    captured, plain = CapturedModel(CudaRecorder()), WholeModel()
    prompts = [make_context(model, seed, 5) for seed in (70, 71)]
    for seed, words in ((0, 5), (1, 5), (2, 5), (3, 9), (4, 9), (5, 5)):
        context = prompts[seed % 2] if words == 5 else make_context(model, 7, words)
        forward = open_forward(model, seed=seed, context=context)
        assert torch.equal(captured.evaluate(forward), plain.evaluate(forward))
