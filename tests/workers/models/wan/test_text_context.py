"""Merged padding and stacked contexts."""

import math

import pytest
import torch

from reelray.workers.models.wan.text_context import (
    CrossContext,
    mean_of_slots,
    merge_context,
    merge_zero_tokens,
    pad_context,
    padding_biases,
    stack_contexts,
)
from tests.support.wan_oracle import draw_inputs, make_oracle, make_twin


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_biases_add_up_to_the_count(dtype) -> None:
    for count in range(513):
        biases = padding_biases(count, dtype)
        assert len(biases) <= 4
        assert all(torch.tensor(bias, dtype=dtype).item() == bias for bias in biases)
        assert sum(map(math.exp, biases)) == pytest.approx(count, rel=2e-6)


def test_merging_keeps_inner_zeros_and_counts_rows_apart() -> None:
    embeddings = torch.ones(3, 8, 2)
    embeddings[0, 2:] = 0
    embeddings[1, 1] = 0
    embeddings[1, 4:] = 0
    embeddings[2] = 0
    kept, bias = merge_zero_tokens(embeddings)
    assert kept.shape == (3, 5, 2)
    log = math.log
    expected = [[0, 0, log(6), -math.inf, -math.inf], [0, 0, 0, 0, log(4)], [log(8), *[-math.inf] * 4]]
    torch.testing.assert_close(bias, torch.tensor(expected))


def test_nothing_to_merge() -> None:
    embeddings = torch.ones(2, 4, 3)
    kept, bias = merge_zero_tokens(embeddings)
    assert kept is embeddings
    assert bias is None


@pytest.mark.parametrize("merge", [(True, True), (False, True), (False, False)])
@torch.no_grad()
def test_a_stack_equals_its_rows(merge) -> None:
    oracle = make_oracle()
    twin = make_twin(oracle)
    latents, text = draw_inputs(oracle, words=(3, 30))
    timestep = torch.tensor([900.0, 20.0])
    contexts = [twin.prepare_text(text[i : i + 1], merge_padding=merge[i]) for i in range(2)]
    stack = stack_contexts(contexts)
    assert (stack.batch, stack.tokens) == (2, max(context.tokens for context in contexts))
    expected = oracle(latents, timestep, text, return_dict=False)[0]
    assert (twin(latents, timestep, stack) - expected).abs().max() <= 1e-5
    assert stack_contexts(contexts[:1]) is contexts[0]


@torch.no_grad()
def test_a_filled_up_context_says_the_same() -> None:
    oracle = make_oracle()
    twin = make_twin(oracle)
    latents, text = draw_inputs(oracle, batch=1, words=(3,))
    for merge in (True, False):
        context = twin.prepare_text(text[:, :40], merge_padding=merge)
        filled = pad_context(context, 32)
        assert filled.tokens == (32 if merge else 64)
        assert pad_context(filled, 32) is filled
        gap = twin(latents, torch.tensor([500.0]), filled) - twin(latents, torch.tensor([500.0]), context)
        assert gap.abs().max() <= 1e-5


@torch.no_grad()
def test_a_stack_of_some_layers_knows_which() -> None:
    oracle = make_oracle(num_layers=3)
    whole, some = make_twin(oracle), make_twin(oracle)
    some.keep_layers(range(1, 3))
    _, text = draw_inputs(oracle, words=(3, 30))
    expected, found = (
        stack_contexts([model.prepare_text(row[None], merge_padding=True) for row in text]) for model in (whole, some)
    )
    assert len(found.keys) == 2
    for layer in (1, 2):
        assert all(map(torch.equal, found.of_layer(layer), expected.of_layer(layer)))
    assert not torch.equal(found.of_layer(1)[0], found.of_layer(2)[0])


def test_merging_is_the_default_without_gradients() -> None:
    oracle = make_oracle()
    twin = make_twin(oracle)
    _, text = draw_inputs(oracle, words=(3, 30))
    assert twin.prepare_text(text).tokens == 512
    with torch.no_grad():
        assert twin.prepare_text(text).tokens == 31
        assert twin.prepare_text(text, merge_padding=False).tokens == 512


@torch.no_grad()
def test_a_merged_context_keeps_the_unmerged_one() -> None:
    oracle = make_oracle()
    twin = make_twin(oracle)
    latents, text = draw_inputs(oracle, batch=1, words=(3,))
    whole = twin.prepare_text(text, merge_padding=False)
    merged = merge_context(whole, text)
    assert (merged.tokens, merged.unmerged) == (4, whole)
    assert merged.nbytes == whole.nbytes
    assert pad_context(merged, 32).unmerged is None
    assert merged.holding(merged.tensors).unmerged is None
    timestep = torch.tensor([500.0])
    assert (twin(latents, timestep, merged) - twin(latents, timestep, whole)).abs().max() <= 1e-5
    full = twin.prepare_text(torch.ones_like(text), merge_padding=False)
    assert merge_context(full, torch.ones_like(text)) is full


def test_layers_must_pair() -> None:
    with pytest.raises(ValueError, match="1 layers of keys, 0 of values"):
        CrossContext(keys=(torch.zeros(1, 1, 1, 1),), values=())


@pytest.mark.parametrize("merge", [False, True])
@torch.no_grad()
def test_a_mean_of_slots_counts_every_slot(merge) -> None:
    """Merged padding counts as often as there were slots, and slots that nobody uses do not count."""
    oracle = make_oracle()
    twin = make_twin(oracle)
    _, text = draw_inputs(oracle, words=(3, 30))
    whole = twin.prepare_text(text[:1], merge_padding=False)
    context = pad_context(twin.prepare_text(text[:1], merge_padding=merge), 32)
    for keys, wanted in zip(context.keys, whole.keys, strict=True):
        assert (mean_of_slots(keys, context.bias) - wanted.mean(1)).abs().max() < 1e-5
