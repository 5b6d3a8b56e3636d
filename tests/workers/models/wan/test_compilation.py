"""Regional compilation: one version per kind of call, shared by all layers, the same numbers."""

import pytest
import torch
from torch._dynamo.utils import counters

from tests.support.wan_oracle import draw_inputs, make_oracle, make_twin


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(recompile_limit=3):
        yield
    torch._dynamo.reset()


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


@torch.no_grad()
def test_layers_share_graphs() -> None:
    # Three regions, of which the first has a version for the first layer, where nothing is due.
    oracle = make_oracle(num_layers=5)
    twin = make_twin(oracle)
    twin.compile_blocks(backend="eager", dynamic=False)
    latents, text = draw_inputs(oracle)
    timestep = torch.tensor([900.0, 20.0])
    expected = oracle(latents, timestep, text, return_dict=False)[0]
    assert (twin(latents, timestep, text) - expected).abs().max() <= 1e-5
    assert graphs() == 4
    twin(latents + 1, timestep - 1, twin.prepare_text(text, merge_padding=True))
    assert graphs() == 4


@pytest.mark.parametrize("dynamic", [None, False])
@torch.no_grad()
def test_many_sizes(dynamic) -> None:
    oracle = make_oracle(num_layers=1)
    plain, twin = make_twin(oracle), make_twin(oracle)
    twin.compile_blocks(backend="eager", dynamic=dynamic)
    seen = []
    for frames in range(2, 7):
        latents, text = draw_inputs(oracle, batch=2, size=(frames, 6, 2 * frames))
        timestep = torch.rand(2, frames) * 1000
        assert torch.equal(twin(latents, timestep, text), plain(latents, timestep, text))
        seen.append(graphs())
    if dynamic is False:
        assert seen[-1] == 15
    else:
        assert seen[-1] == seen[2]


# Dynamo looks at the gradient of the residual stream while it traces, which torch itself warns of.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_model_trains_under_autocast() -> None:
    oracle = make_oracle()
    plain, twin = make_twin(oracle), make_twin(oracle)
    twin.compile_blocks(backend="aot_eager")
    latents, text = draw_inputs(oracle)
    for model in (plain, twin):
        with torch.autocast("cpu", torch.bfloat16):
            model(latents, torch.tensor([900.0, 20.0]), text).float().square().mean().backward()
    for ours, theirs in zip(plain.parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=2e-2, atol=2e-3)


def test_the_whole_forward_compiles_without_breaks() -> None:
    oracle = make_oracle(num_layers=1)
    plain = make_twin(oracle)
    compiled = torch.compile(plain, fullgraph=True, backend="aot_eager")
    latents, text = draw_inputs(oracle)
    timestep = torch.tensor([900.0, 20.0])
    assert (compiled(latents, timestep, text) - plain(latents, timestep, text)).abs().max() <= 1e-5
