"""What every rank of the row tests runs. The same functions on one rank give what is expected."""

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from reelray.proto.errors import SizeError
from reelray.workers.models.wan.vae import DecodeState, Tiling, WanVae, WanVaeConfig
from reelray.workers.models.wan.vae.fused_decoder import FusedDecoder
from reelray.workers.models.wan.vae.state import CausalState
from reelray.workers.parallel.vae_rows import GroupRows, RowParallelVae

SCALE = 8
CHUNKS = (1, 2, 3)
# Forms of the decoder: as loaded, channels-last, the GPU decoder's structure, several latent frames at once.
FORMS = ("plain", "inference", "subpixel", "fused", "long calls")


def build(form: str = "plain") -> WanVae:
    torch.manual_seed(5)
    config = WanVaeConfig(base_dim=8, num_res_blocks=2, attn_scales=(0.25,))
    vae = WanVae(config).eval().requires_grad_(False)
    for name, parameter in vae.named_parameters():
        if name.endswith(("bias", "gamma")):
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    if form in {"inference", "subpixel"}:
        vae.to_inference("cpu", torch.float32, subpixel=form == "subpixel")
    if form == "fused":
        vae._fused = FusedDecoder(vae.post_quant_conv, vae.decoder)
    vae.latents_per_call = 3 if form in {"fused", "long calls"} else 1
    return vae


def draw_latents(rows: int, frames: int = 6, columns: int = 4) -> Tensor:
    return torch.randn(2, 16, frames, rows, columns, generator=torch.Generator().manual_seed(rows))


def draw_video(rows: int, frames: int = 9, columns: int = 2) -> Tensor:
    shape = (1, 3, frames, rows * SCALE, columns * SCALE)
    return torch.rand(shape, generator=torch.Generator().manual_seed(rows)) * 2 - 1


@cache
def decode_alone(form: str, rows: int) -> tuple[Tensor, DecodeState]:
    vae = build(form)
    state = vae.new_decode_state(batch=2)
    parts = [vae.decode(part, state) for part in draw_latents(rows).split(CHUNKS, dim=2)]
    return torch.cat(parts, dim=2), state


def encode_alone(rows: int) -> tuple[Tensor, Tensor, CausalState]:
    vae = build()
    state = vae.new_encode_state()
    parts = [vae.encode(part, state) for part in draw_video(rows).split((1, 8), dim=2)]
    means, logvars = zip(*parts, strict=True)
    return torch.cat(means, dim=2), torch.cat(logvars, dim=2), state


def together(
    rows: int, form: str = "plain", width: int | None = None, group: dist.ProcessGroup | None = None
) -> RowParallelVae:
    group = group or dist.group.WORLD
    assert group is not None
    return RowParallelVae(build(form), GroupRows(group, rows, width), scale=SCALE)


def decode_together(form: str, rows: int, width: int | None = None) -> dict[str, Any]:
    model = together(rows, form, width)
    state = DecodeState(batch=2)
    own = torch.cat([model.decode(part, state) for part in draw_latents(rows).split(CHUNKS, dim=2)], dim=2)
    return {
        "own_rows": own.shape[3],
        "video": model.rows.gather(own, 3),
        "bytes": model.gather_pixels(own),
        "bytes_to_last": model.gather_pixels(own, to=dist.get_world_size() - 1),
        "state": model.gather_state(state),
        "state_to_last": model.gather_state(state, to=dist.get_world_size() - 1),
    }


def encode_together(rows: int) -> dict[str, Any]:
    model = together(rows)
    state = model.vae.new_encode_state()
    parts = [model.encode(part, state) for part in draw_video(rows).split((1, 8), dim=2)]
    mean, logvar = (torch.cat(list(part), dim=2) for part in zip(*parts, strict=True))
    whole = model.rows.gather(mean, 3), model.rows.gather(logvar, 3)
    return {"mean": whole[0], "logvar": whole[1], "state": model.gather_state(state)}


def go_on_together(form: str, rows: int, stored: bytes, group: dist.ProcessGroup | None = None) -> Tensor:
    """Take up a stored whole-picture state and decode the last chunk."""
    model = together(rows, form, group=group)
    state = model.cut_state(DecodeState.from_bytes(stored))
    own = model.decode(draw_latents(rows)[:, :, sum(CHUNKS[:-1]) :], state)
    return model.rows.gather(own, 3)


def pause_alone(form: str, rows: int) -> bytes:
    vae = build(form)
    state = vae.new_decode_state(batch=2)
    for part in draw_latents(rows)[:, :, : sum(CHUNKS[:-1])].split(CHUNKS[:-1], dim=2):
        vae.decode(part, state)
    return state.to_bytes()


def pause_together(form: str, rows: int) -> bytes:
    model = together(rows, form)
    state = DecodeState(batch=2)
    for part in draw_latents(rows)[:, :, : sum(CHUNKS[:-1])].split(CHUNKS[:-1], dim=2):
        model.decode(part, state)
    whole = model.gather_state(state)
    assert whole is not None
    return whole.to_bytes()


def count_exchanges(rows: int, width: int) -> list[int]:
    """Messages that leave or reach this rank, for each exchange while one latent frame is decoded."""
    counted: list[int] = []
    exchange = dist.batch_isend_irecv

    def count(moves: list[dist.P2POp]) -> list[dist.Work]:
        counted.append(len(moves))
        return exchange(moves)

    dist.batch_isend_irecv = count
    try:
        together(rows, "plain", width).decode(draw_latents(rows, 1), DecodeState(batch=2))
    finally:
        dist.batch_isend_irecv = exchange
    return counted


def refusals() -> list[str]:
    """Each of these must be refused before anything is sent: a rank that sent would wait for ever."""
    ranks = dist.get_world_size()
    model = together(ranks)
    tries = [
        lambda: together(ranks - 1),
        lambda: together(ranks, width=2),
        lambda: model.decode(draw_latents(ranks + 1), DecodeState(batch=2)),
        lambda: model.encode(draw_video(ranks)[..., :-1], model.vae.new_encode_state()),
        lambda: model.decode(draw_latents(ranks), DecodeState(batch=2, tiling=Tiling(tile=8))),
    ]
    said = []
    for attempt in tries:
        try:
            attempt()
        except (SizeError, ValueError) as error:
            said.append(str(error))
    return said


def two_ranks() -> dict[str, Any]:
    found: dict[str, Any] = {("decode", form): decode_together(form, 5) for form in FORMS}
    found |= {("decode narrow", form): decode_together(form, 5, width=1) for form in ("inference", "fused")}
    found["half"] = decode_half(5)
    found["encode"] = encode_together(5)
    found["resume"] = {form: go_on_together(form, 5, pause_alone(form, 5)) for form in ("plain", "fused")}
    found["exchanges"] = {width: count_exchanges(5, width) for width in (1, 2)}
    found["refusals"] = refusals()
    return found


def four_ranks() -> dict[str, Any]:
    found: dict[str, Any] = {("decode", form): decode_together(form, 15) for form in ("plain", "fused")}
    found["short"] = decode_together("plain", 5)
    found["encode"] = encode_together(9)
    found["paused"] = pause_together("plain", 15)
    found["resume"] = {"plain": go_on_together("plain", 15, pause_alone("plain", 15))}
    # A group whose ranks are not those of the world.
    pair = dist.new_group([2, 3])
    if dist.get_rank() in {2, 3}:
        found["resume on two"] = go_on_together("plain", 15, found["paused"], pair)
    found["exchanges"] = {2: count_exchanges(15, 2)}
    found["refusals"] = refusals()
    return found


def decode_half(rows: int) -> Tensor:
    """bf16, the dtype of a GPU: what is exchanged must keep its dtype."""
    model = together(rows)
    model.vae.to_inference("cpu")
    return model.rows.gather(model.decode(draw_latents(rows, 2), DecodeState(batch=2)), 3)
