"""Forwards and guided steps of every layout: checked against one rank, then timed in turn.

A row is a dict, ready for JSON: `what` was done, `by` whom, under which `layout`, by how many `ranks` (those that share
one forward or step), its `error` and `limit`, and `samples_ms`, one list per round with the milliseconds of every rank.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from reelray.proto.errors import ReelrayError
from reelray.proto.graphs import GRAPH_TOKENS
from reelray.workers.bench.case import BenchModel, ParallelCase
from reelray.workers.bench.timing import all_agree, gather, relative_error, time_interleaved
from reelray.workers.models.attention_op import View, WindowAttention
from reelray.workers.models.sharding import Sharding, WholeWindow
from reelray.workers.parallel.cfg import ParallelBranches
from reelray.workers.parallel.mesh import Mesh
from reelray.workers.parallel.sequence_attention import SequenceAttention
from reelray.workers.parallel.sequence_sharding import SequenceSharding
from reelray.workers.samplers.guidance import Branch, SequentialBranches

OURS = "reelray"
FORWARD, GUIDED = "forward", "guided step"
LIMITS = {torch.bfloat16: 0.05, torch.float32: 1e-4}
"""Of the relative error of one forward; two models in bfloat16 differ by 0.015 at full depth."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One thing to time.

    Args:
        what: `FORWARD` or `GUIDED`.
        by: `OURS` or a peer's name.
        layout: As text; empty for one rank.
        ranks: Ranks that share it.
        head_groups: See `SequenceAttention`; None where nothing is exchanged so.
        run: Gives the whole prediction on every rank.
    """

    what: str
    by: str
    layout: str
    ranks: int
    run: Callable[[], Tensor]
    head_groups: int | None = None

    @property
    def name(self) -> str:
        """Tells it from the others."""
        groups = "" if not self.head_groups else f", {self.head_groups} head groups"
        return f"{self.what} by {self.by}, {self.layout or 'one rank'}{groups}"

    def row(self) -> Row:
        """What is known before it runs."""
        return {
            "what": self.what,
            "by": self.by,
            "layout": self.layout,
            "ranks": self.ranks,
            "head_groups": self.head_groups,
        }


def measure_forwards(
    case: ParallelCase, model: BenchModel, mesh: Mesh, *, stop_at_s: float, note: Callable[[Row], None]
) -> tuple[list[Row], dict[str, str]]:
    """Check everything, then time what is right; every rank calls it.

    Nothing of ours is timed when any of it is wrong. A peer that fails or is wrong is left out, with the reason.

    Args:
        case: What to measure.
        model: The same weights on every rank.
        mesh: Has the layouts of the case.
        stop_at_s: See `time_interleaved`.
        note: Called with each row as soon as it is checked.

    Returns:
        Rows, and for each peer what became of it.
    """
    first = case.remembered
    inputs = model.draw_inputs(case.latent_frames, case.rows, case.columns, first=first, seed=case.seed + 1)
    ours = list_ours(case, model, mesh, inputs)
    references = {FORWARD: ours[0].run(), GUIDED: ours[1].run()}
    # What is timed is a captured forward where it is small, so that is what must be right.
    untimed = case.warmup if case.tokens <= GRAPH_TOKENS else 0
    rows = [check(contender, references, model.dtype, case.guidance, untimed) for contender in ours]
    for row in rows:
        note(row)
    if any(row["wrong"] for row in rows):
        return rows, dict.fromkeys(case.against, "not measured: our own result is wrong")
    contenders, said = list(ours), {}
    for name in case.against:
        found, said[name] = open_peer(name, model, inputs)
        for contender in found:
            row, problem = attempt(partial(check, contender, references, model.dtype, case.guidance, 0), model.device)
            if row is None or row["wrong"]:
                said[name] = problem or f"wrong result: relative error {row['error'] if row else '?'}"
                continue
            note(row)
            contenders.append(contender)
            rows.append(row)
    del references
    runs = {contender.name: contender.run for contender in contenders}
    samples = time_interleaved(runs, model.device, runs=case.runs, warmup=case.warmup, stop_at_s=stop_at_s)
    return add_samples(rows, samples), said


def list_ours(case: ParallelCase, model: BenchModel, mesh: Mesh, inputs: Any) -> list[Contender]:
    """One rank's forward and guided step first, then those of every layout."""
    whole = WholeWindow(WindowAttention(draw_view(case, model)))
    found = [
        Contender(what=FORWARD, by=OURS, layout="", ranks=1, run=partial(forward, model, inputs, whole)),
        Contender(what=GUIDED, by=OURS, layout="", ranks=1, run=partial(guide, model, inputs, whole, None, case)),
    ]
    for layout in case.layouts:
        lane = mesh.lane(layout)
        text = str(replace(layout, replica=1))
        view = draw_view(case, model, ranks=layout.ulysses, index=lane.ulysses.index)
        shared = () if lane.ulysses.peer_memory is None else (0,)
        for groups in (*shared, *case.head_groups) if layout.ulysses > 1 else (None,):
            make = partial(SequenceAttention, head_groups=groups or 0, view=view)
            sharding = SequenceSharding(lane, make_attention=make)
            branches = ParallelBranches(lane.cfg, model.device) if layout.cfg > 1 else None
            named: dict[str, Any] = {"by": OURS, "layout": text, "head_groups": groups}
            guided = partial(guide, model, inputs, sharding, branches, case)
            found.append(Contender(what=GUIDED, ranks=layout.lane, run=guided, **named))
            if layout.sequence > 1:
                run = partial(forward, model, inputs, sharding)
                found.append(Contender(what=FORWARD, ranks=layout.sequence, run=run, **named))
    return found


def draw_view(case: ParallelCase, model: BenchModel, *, ranks: int = 1, index: int = 0) -> View | None:
    """What the case remembers, of one ulysses rank's heads; None where it remembers nothing."""
    if not case.remembered:
        return None
    tokens, window = case.remembered * case.places, case.tokens
    return View(past=model.draw_past(tokens, window, ranks=ranks, index=index, seed=case.seed + 3))


def forward(model: BenchModel, inputs: Any, sharding: Sharding) -> Tensor:
    """The conditional branch alone."""
    return model.predict(inputs, Branch.CONDITIONAL, sharding)


@torch.no_grad()
def guide(
    model: BenchModel, inputs: Any, sharding: Sharding, branches: ParallelBranches | None, case: ParallelCase
) -> Tensor:
    """Both branches, mixed: what a guided denoise step computes before the sampler moves the latents."""
    facts = case.source.facts
    shape = torch.Size((1, facts.latent_channels, case.latent_frames, case.rows, case.columns))
    evaluate = partial(model.predict, inputs, sharding=sharding)
    return (branches or SequentialBranches()).predict(evaluate, case.guidance, shape=shape)


def check(
    contender: Contender, references: dict[str, Tensor], dtype: torch.dtype, guidance: float, untimed: int
) -> Row:
    """Run and compare the last of `untimed + 1` results with one rank's; every rank calls it.

    The largest error of all ranks counts.

    Guidance subtracts two predictions that are nearly the same, and so raises the limit with the errors of both.
    """
    for _ in range(untimed):
        contender.run()
    own = relative_error(contender.run(), references[contender.what])
    errors = gather(own)
    limit = LIMITS[dtype] * (2 * guidance - 1 if contender.what == GUIDED else 1)
    wrong = any(not error <= limit for error in errors)
    # max() would pass over a NaN that does not come first.
    worst = next((error for error in errors if error != error), max(errors))  # noqa: PLR0124
    return {**contender.row(), "error": worst, "limit": limit, "wrong": wrong}


def open_peer(name: str, model: BenchModel, inputs: Any) -> tuple[list[Contender], str]:
    """Build a peer; every rank calls it. What it cannot do is said, and never fails the benchmark."""
    ranks = dist.get_world_size()
    peer, problem = attempt(partial(model.open_peer, name, ranks), model.device)
    if peer is None:
        return [], problem
    together = Contender(
        what=FORWARD, by=name, layout=f"ulysses={ranks}", ranks=ranks, run=partial(peer.together, inputs)
    )
    if peer.alone is None:
        return [together], "measured"
    alone = Contender(what=FORWARD, by=name, layout="", ranks=1, run=partial(peer.alone, inputs))
    return [alone, together], "measured"


def attempt(call: Callable[[], Any], device: torch.device) -> tuple[Any, str]:
    """Call other people's code; None and the reason when it fails on any rank. Every rank calls it."""
    found, problem = None, ""
    try:
        found = call()
    except ReelrayError as error:
        problem = error.message
    except Exception as error:  # noqa: BLE001  another project's code: whatever it is, ours is measured all the same
        problem = f"failed: {type(error).__name__}: {error}"
    if all_agree(found is not None, device):
        return found, ""
    return None, next(said for said in gather(problem) if said)


def add_samples(rows: list[Row], samples: dict[str, list[float]]) -> list[Row]:
    """Put the milliseconds of all ranks to their rows, which are in the order of the samples."""
    by_rank = gather(list(samples.values()))
    return [
        {**row, "samples_ms": [list(run) for run in zip(*(rank[number] for rank in by_rank), strict=True)]}
        for number, row in enumerate(rows)
    ]
