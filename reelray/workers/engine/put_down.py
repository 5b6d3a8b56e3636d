"""Writes a snapshot of what a rank holds of a request; `HeldRequest.restore` reads it, on ranks of any layout."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from torch import Tensor

from reelray.proto.commit_parts import CHUNK_PART, DECODE_PART, clean_part, memory_part
from reelray.proto.memory_rule import Commit
from reelray.proto.snapshot import SnapshotKind
from reelray.workers.engine.packing import on_cpu, pack
from reelray.workers.engine.role import Role
from reelray.workers.engine.step_record import StepRecord
from reelray.workers.engine.stream_memory import keep_attended

if TYPE_CHECKING:
    from reelray.workers.engine.held_request import HeldRequest


def add_snapshot(record: StepRecord, held: "HeldRequest", role: Role, kind: SnapshotKind) -> None:
    """Put a request down in the report of a step; every rank that holds it calls this, whatever it tells."""
    record.add_snapshot(held.request.request_id, role.choose(put_down(held, role, kind)))


def put_down(held: "HeldRequest", role: Role, kind: SnapshotKind) -> dict[str, bytes]:
    """The parts of a snapshot that this rank knows.

    Clean latents that wait for decode are parts of their own. A decoder's state is large; where the clean latents of
    all chunks are there anyway, a replay has these and no state: the decoder then begins anew.

    Args:
        held: What the rank holds.
        role: What it does of a step.
        kind: How what is remembered is written.
    """
    parts: dict[str, bytes] = {}
    clean_1CTHW = dict(held.clean_1CTHW)
    all_clean = _find_all(held) if kind is SnapshotKind.REPLAY and role.handover is None else None
    if role.denoises:
        state = {"work": on_cpu(held.work()), "memory": held.forwards.state()}
        parts |= {CHUNK_PART: pack(state), **_remembered(held, kind)}
    if all_clean is not None:
        clean_1CTHW = all_clean | clean_1CTHW
    elif role.decodes:
        parts[DECODE_PART] = pack({"clean": {}, "decoder": held.pack_decoder()})
    return parts | {clean_part(first): pack(latents.cpu()) for first, latents in clean_1CTHW.items()}


def _remembered(held: "HeldRequest", kind: SnapshotKind) -> dict[str, bytes]:
    """All that is remembered, whatever commits have of it; for a quick snapshot what is attended now."""
    memory, rule = held.forwards.memory, held.request.recipe.memory
    if rule is None:
        return {}
    history = held.forwards.history
    if kind is SnapshotKind.QUICK:
        history = keep_attended(history, rule)
    parts = {past.part: pack(asdict(past)) for past in history}
    if memory is None or kind is not SnapshotKind.EXACT:  # what found no room where it was moved is made again
        return parts
    return parts | {memory_part(memory.first_head): pack(memory.write())}


def _find_all(held: "HeldRequest") -> dict[int, Tensor] | None:
    """The clean latents of all chunks that are clean; None where they are not all kept."""
    rule = held.request.recipe.memory
    if rule is None or rule.commit is not Commit.CLEAN:
        return None
    noted = {past.first: past.latents_1CTHW for past in held.forwards.history if not past.rewinds and not past.frames}
    found, end = {**noted, **held.forwards.clean.held, **held.clean_1CTHW}, 0
    while end in found:
        end += found[end].shape[2]
    return found if all(first < end for first in found) else None
