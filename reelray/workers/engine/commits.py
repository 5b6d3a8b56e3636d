"""Writes down what a rank knows of a request, so that other ranks can go on with it when these are lost, and back."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from reelray.proto.commit_parts import CHUNK_PART, DECODE_PART, clean_part
from reelray.workers.engine.packing import on_cpu, pack, unpack
from reelray.workers.engine.role import Role

if TYPE_CHECKING:
    from reelray.workers.engine.held_request import HeldRequest


def save(held: "HeldRequest", role: Role) -> dict[str, bytes]:
    """Write down what this rank knows: latents and solver history, or decoder state; text is encoded anew.

    Args:
        held: What the rank holds.
        role: What it does of a step.
    """
    parts: dict[str, bytes] = {}
    if role.denoises:
        memory, history = held.forwards.save()
        parts |= {CHUNK_PART: pack({"work": on_cpu(held.work()), "memory": memory}), **history}
    if role.decodes:
        # What was delivered is written down by the rank that gave it: crews write at different times.
        clean = {} if role.handover is not None else on_cpu(held.clean_1CTHW)
        parts[DECODE_PART] = pack({"clean": clean, "decoder": held.pack_decoder()})
    elif role.handover is not None:
        parts |= {clean_part(first): pack(latents.cpu()) for first, latents in held.clean_1CTHW.items()}
    return parts


def restore(held: "HeldRequest", role: Role, parts: Mapping[str, bytes]) -> None:
    """Go on from what `save` wrote on the ranks that do the same.

    Args:
        held: Fresh, of the same request.
        role: What this rank does of a step.
        parts: What was written.
    """
    device = held.device
    if role.denoises or role.helps:
        state = unpack(parts[CHUNK_PART])
        held.take_flight(state["work"]["chunks"], state["work"]["tensors"])
        if role.denoises:
            held.forwards.restore(state["memory"], parts)
    if role.denoises and (role.decodes or role.handover is not None):
        held.clean_1CTHW = {first: unpack(data).to(device) for first, data in _clean_parts(parts)}
    if role.decodes and DECODE_PART in parts:
        state = unpack(parts[DECODE_PART])
        held.clean_1CTHW |= {first: latents.to(device) for first, latents in state["clean"].items()}
        held.take_decoder(state["decoder"])


def _clean_parts(parts: Mapping[str, bytes]) -> Iterator[tuple[int, bytes]]:
    """Clean latents among the parts of a commit, by first latent frame."""
    prefix = clean_part(0).removesuffix("0")
    return ((int(name.removeprefix(prefix)), data) for name, data in parts.items() if name.startswith(prefix))
