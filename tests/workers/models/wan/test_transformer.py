"""The transformer against diffusers' with the same random weights, float32 on CPU."""

import pytest
import torch

from reelray.workers.models.attention_op import WindowAttention
from reelray.workers.models.wan.config import WanConfig
from reelray.workers.models.wan.rope import Positions
from reelray.workers.models.wan.transformer import WanTransformer
from tests.support.wan_oracle import TINY, TINY_I2V, draw_inputs, make_oracle, make_twin

TOLERANCE = 1e-5


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


@pytest.mark.parametrize("size", [(3, 6, 10), (5, 10, 14), (1, 2, 2)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("merge", [False, True])
@torch.no_grad()
def test_text_to_video_equals_diffusers(size, batch, merge) -> None:
    oracle = make_oracle()
    twin = make_twin(oracle)
    latents, text = draw_inputs(oracle, batch=batch, size=size)
    timestep = torch.tensor([999.0, 357.14, 3.0])[:batch]
    expected = oracle(latents, timestep, text, return_dict=False)[0]
    context = twin.prepare_text(text, merge_padding=merge)
    assert (context.tokens < 20) == merge
    assert expected.abs().max() > 0.5
    assert gap(twin(latents, timestep, context), expected) <= TOLERANCE
    per_frame = timestep[:, None].expand(batch, size[0])
    assert gap(twin(latents, per_frame, context), expected) <= TOLERANCE


@pytest.mark.parametrize("facts", [TINY, TINY_I2V])
@pytest.mark.parametrize("size", [(3, 6, 10), (5, 10, 14), (1, 2, 2)])
@torch.no_grad()
def test_one_row_is_that_of_diffusers_bit_for_bit(facts, size) -> None:
    oracle = make_oracle(**facts)
    twin = make_twin(oracle)
    latents, text = draw_inputs(oracle, batch=1, size=size)
    image = torch.randn(1, 257, 20) if facts is TINY_I2V else None
    context = None if image is None else twin.prepare_image(image)
    timestep = torch.tensor([357.14])
    expected = oracle(latents, timestep, text, image, return_dict=False)[0]
    assert torch.equal(twin(latents, timestep, text, image=context), expected)
    per_frame = timestep[:, None].expand(1, size[0])
    assert torch.equal(twin(latents, per_frame, text, image=context), expected)


@pytest.mark.parametrize("size", [(3, 6, 10), (5, 10, 14)])
@torch.no_grad()
def test_a_timestep_per_frame_equals_diffusers_per_token_path(size) -> None:
    oracle = make_oracle()
    twin = make_twin(oracle)
    latents, text = draw_inputs(oracle, size=size)
    timestep = torch.linspace(1000, 0, 2 * size[0]).view(2, size[0])
    per_token = timestep.repeat_interleave(size[1] * size[2] // 4, dim=1)
    expected = oracle(latents, per_token, text, return_dict=False)[0]
    assert gap(twin(latents, timestep, text), expected) <= TOLERANCE


@pytest.mark.parametrize("size", [(3, 6, 10), (5, 10, 14)])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("merge", [False, True])
@torch.no_grad()
def test_image_to_video_equals_diffusers(size, batch, merge) -> None:
    oracle = make_oracle(**TINY_I2V)
    twin = make_twin(oracle)
    latents, text = draw_inputs(oracle, batch=batch, size=size)
    image = torch.randn(batch, 257, 20)
    timestep = torch.tensor([700.0, 20.0])[:batch]
    expected = oracle(latents, timestep, text, image, return_dict=False)[0]
    found = twin(latents, timestep, twin.prepare_text(text, merge_padding=merge), image=twin.prepare_image(image))
    assert gap(found, expected) <= TOLERANCE


@torch.no_grad()
def test_first_and_last_frame_positions_equal_diffusers() -> None:
    oracle = make_oracle(**TINY_I2V, pos_embed_seq_len=10)
    torch.nn.init.normal_(oracle.condition_embedder.image_embedder.pos_embed)
    twin = make_twin(oracle)
    latents, text = draw_inputs(oracle, batch=1)
    image = torch.randn(1, 10, 20)
    timestep = torch.tensor([700.0])
    expected = oracle(latents, timestep, text, image.view(2, 5, 20), return_dict=False)[0]
    assert gap(twin(latents, timestep, text, image=twin.prepare_image(image)), expected) <= TOLERANCE


@torch.no_grad()
def test_without_cross_norm_equals_diffusers() -> None:
    oracle = make_oracle(cross_attn_norm=False)
    twin = make_twin(oracle)
    latents, text = draw_inputs(oracle)
    timestep = torch.tensor([700.0, 20.0])
    assert gap(twin(latents, timestep, text), oracle(latents, timestep, text, return_dict=False)[0]) <= TOLERANCE


@torch.no_grad()
def test_positions_move_frames() -> None:
    oracle = make_oracle()
    twin = make_twin(oracle)
    latents, text = draw_inputs(oracle, batch=1, size=(4, 6, 10))
    timestep = torch.tensor([500.0])
    context = twin.prepare_text(text)
    plain = twin(latents, timestep, context)
    shifted = twin(latents, timestep, context, positions=Positions(frames=torch.arange(4) + 9))
    assert gap(plain, shifted) <= TOLERANCE  # rotations are relative
    spread = twin(latents, timestep, context, positions=Positions(frames=torch.tensor([0, 1, 2, 40])))
    assert gap(plain, spread) > 1e-3
    rows = torch.stack((torch.arange(4), torch.tensor([0, 1, 2, 40])))
    both = twin(
        latents.repeat(2, 1, 1, 1, 1),
        timestep.repeat(2),
        twin.prepare_text(text.repeat(2, 1, 1)),
        positions=Positions(frames=rows),
    )
    assert gap(both, torch.cat((plain, spread))) <= TOLERANCE


@torch.no_grad()
def test_the_attention_op_sees_every_layer_and_may_rotate_by_itself() -> None:
    class LateRotation:
        rotates, repeats = True, True

        def __init__(self) -> None:
            self.layers = []

        def __call__(self, q, k, v, *, layer, cos_BSP, sin_BSP):
            self.layers.append(layer)
            turn = torch.complex(cos_BSP, sin_BSP)[:, :, None]
            q, k = (
                torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)
                for x in (q, k)
            )
            return WindowAttention()(q, k, v, layer=layer, cos_BSP=cos_BSP, sin_BSP=sin_BSP)

    twin = make_twin(make_oracle())
    latents, text = draw_inputs(make_oracle())
    op = LateRotation()
    timestep = torch.tensor([500.0, 1.0])
    assert gap(twin(latents, timestep, text, attention=op), twin(latents, timestep, text)) <= TOLERANCE
    assert op.layers == [0, 1, 2]


@torch.no_grad()
def test_rows_cut_over_two_windows_rejoin() -> None:
    """A rank that holds the lower rows sets row_offset; without attention between them rows are independent."""

    class OwnToken:
        rotates, repeats = False, True

        def __call__(self, q, k, v, **_):
            return v + 0.1 * q + 0.1 * k

    twin = make_twin(make_oracle())
    latents, text = draw_inputs(make_oracle(), size=(3, 6, 10))
    timestep = torch.tensor([[500.0, 1.0, 7.0]] * 2)
    whole = twin(latents, timestep, text, attention=OwnToken())
    frames = torch.arange(3)
    upper = twin(latents[..., :4, :], timestep, text, attention=OwnToken(), positions=Positions(frames=frames))
    lower = twin(
        latents[..., 4:, :], timestep, text, attention=OwnToken(), positions=Positions(frames=frames, row_offset=2)
    )
    assert gap(torch.cat((upper, lower), dim=-2), whole) <= TOLERANCE


def test_a_fresh_model_predicts_zero_and_learns() -> None:
    torch.manual_seed(0)
    model = WanTransformer(WanConfig(**TINY))
    latents, text = draw_inputs(make_oracle())
    target = torch.randn_like(latents)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = (model(latents, torch.tensor([500.0, 10.0]), text) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(target.square().mean().item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is not None for p in model.parameters())


def test_bad_shapes_are_named() -> None:
    model = WanTransformer(WanConfig(**TINY))
    latents, text = draw_inputs(make_oracle())
    with pytest.raises(ValueError, match=r"timestep has shape \[2, 2\]"):
        model(latents, torch.zeros(2, 2), text)
    with pytest.raises(ValueError, match="must divide by 2 x 2"):
        model(latents[..., :-1], torch.zeros(2), text)
    with pytest.raises(ValueError, match="no image embedder"):
        model.prepare_image(torch.zeros(1, 257, 20))
    with pytest.raises(ValueError, match="rotary table ends at 64"):
        model(torch.zeros(1, 16, 1, 2, 130), torch.zeros(1), text[:1])
